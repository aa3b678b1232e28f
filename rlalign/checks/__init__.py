"""Conformance checks of environments, rewards and policies: `rlalign check NAME`.

env         the checks of an environment: `check_env`
reward      the checks of a reward: `check_reward`
reward_on_data  the same on prompts, references and sampled completions of data: `check_reward_on_data`
policy      the paths of a policy: `check_policy`
views       one scripted episode in each view of an environment, and the comparison of the results
tasks       the checks of a task source
invariant   the result of a check, the function that runs one, and the texts that every reward and environment
            must accept
"""

from rlalign.checks.env import check_env
from rlalign.checks.invariant import FUZZ as FUZZ
from rlalign.checks.invariant import CheckResult
from rlalign.checks.policy import check_policy
from rlalign.checks.reward import EXAMPLES as EXAMPLES
from rlalign.checks.reward import check_reward
from rlalign.checks.reward_on_data import check_reward_on_data
from rlalign.checks.views import Trace as Trace
from rlalign.checks.views import make_scripts as make_scripts
from rlalign.checks.views import play_pieces as play_pieces

__all__ = ["CheckResult", "check_env", "check_policy", "check_reward", "check_reward_on_data"]

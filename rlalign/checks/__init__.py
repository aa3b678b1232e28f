"""Conformance checks of environments and rewards: `rlalign check ENV|REWARD`.

env         the checks of an environment: `check_env`
reward      the checks of a reward: `check_reward`
views       one scripted episode in each view of an environment, and the comparison of the results
tasks       the checks of a task source
invariant   the result of a check, the function that runs one, and the texts that every reward and environment
            must accept
"""

from rlalign.checks.env import check_env
from rlalign.checks.invariant import FUZZ, CheckResult
from rlalign.checks.reward import EXAMPLES, check_reward
from rlalign.checks.views import Trace, make_scripts, play_pieces

__all__ = ["EXAMPLES", "FUZZ", "CheckResult", "Trace", "check_env", "check_reward", "make_scripts", "play_pieces"]

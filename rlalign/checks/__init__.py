"""The laws of an environment and of a reward, run on anything: `rlalign check ENV|REWARD`."""

from rlalign.checks.env import check_env_laws
from rlalign.checks.invariant import FUZZ, LawResult
from rlalign.checks.reward import EXAMPLES, check_reward_laws
from rlalign.checks.views import Trace, play_pieces, scripts

__all__ = ["EXAMPLES", "FUZZ", "LawResult", "Trace", "check_env_laws", "check_reward_laws", "play_pieces", "scripts"]

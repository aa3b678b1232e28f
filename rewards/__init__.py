"""Reward functions, their weighted sum, and the processes that run them.

Public names: `reward` registers a function, `RewardFunction` describes one, `compose` builds a weighted sum
(`RewardSum`), `Schedule` and `Constraint` are weights that change during training. Importing this package does not
import torch.

Definition and composition:
    function.py          `reward`, `RewardFunction`: a function in TRL's signature, its scope, timeout and retries
    specs.py             texts such as "length?target=12=0.5" parsed into rewards and weights
    weights.py           constant weights, schedules, constraints with a multiplier
    weighted_sum.py      `RewardSum`: total = sum of weight · component, valid samples, failure counts
    ensemble.py          mean, minimum, penalized mean or product of several rewards
    combine.py           the same of arrays
    reward_model/        reward models in folders and behind URLs

Execution:
    guard.py             retries, worker start, and the kill of a reward at its timeout
    worker_process.py    the program that runs inside the worker process
    returned_values.py   checks of the values that a function returns
    device_placement.py  the torch device of a reward that has its own model

Helpers for authors of rewards:
    columns.py           columns of the tasks, one entry per sample
    text.py              words and text of a prompt or completion
    builtin/             the built-in rewards, one file per family
"""

from rlalign.rewards.function import RewardFunction, reward
from rlalign.rewards.weighted_sum import RewardSum, compose
from rlalign.rewards.weights import Constraint, Schedule

__all__ = ["Constraint", "RewardFunction", "RewardSum", "Schedule", "compose", "reward"]

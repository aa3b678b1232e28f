"""Rewards: describe a function with `reward`, add several up with `compose`. Importing this imports no torch."""

from rlalign.rewards.function import RewardFunction, reward
from rlalign.rewards.weighted_sum import RewardSum, compose
from rlalign.rewards.weights import Constraint, Schedule

__all__ = ["Constraint", "RewardFunction", "RewardSum", "Schedule", "compose", "reward"]

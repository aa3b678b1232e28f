"""Early stopping on the validation reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rlalign.policies.base import Policy
from rlalign.storage.best_weights import BestWeights


class EarlyStopping:
    """The best validation of a run, and the number of validations since.

    The counters are part of a checkpoint; the weights of the best validation are stored in `best/` of the run folder.

    Args:
        folder: the run folder.
        patience: validations without a better reward after which the run stops; 0: never, and no weights are stored.
    """

    def __init__(self, folder: Path, patience: int) -> None:
        self.weights = BestWeights(folder)
        self.patience = patience
        self.step = 0
        self.reward = -math.inf
        self.stale = 0

    def record(self, step: int, reward: float, policy: Policy, config_hash: str) -> None:
        """Record the mean reward of a validation after `step`, and store the policy's weights if it is the best."""
        if not self.patience:
            return
        if reward > self.reward:
            self.step = step
            self.reward = reward
            self.stale = 0
            self.weights.save(step, policy, config_hash)
        else:
            self.stale += 1

    @property
    def should_stop(self) -> bool:
        """Whether `patience` validations in a row were not better than the best."""
        return bool(self.patience) and self.stale >= self.patience

    def restore(self, policy: Policy) -> bool:
        """Load the best weights into the policy; return False when none are stored."""
        return self.weights.restore(self.step, policy)

    def state_dict(self) -> dict[str, float]:
        """Return step and reward of the best validation, and the number of validations since."""
        return {"step": self.step, "reward": self.reward, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.step = int(state["step"])
        self.reward = float(state["reward"])
        self.stale = int(state["stale"])

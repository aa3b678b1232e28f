"""Early stopping: keep the weights of the best validation, and stop when it stays the best for too long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rlalign.policies.base import Policy
from rlalign.storage import checkpoint

FOLDER = "best"


class EarlyStopping:
    """The best validation so far. Its state goes into the checkpoints, its weights into `best/` of the run folder.

    Args:
        folder: the run folder.
        limit: validations without a better reward before the run stops; 0: no limit, and nothing is kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder / FOLDER, limit
        self.step, self.reward, self.stale = 0, -math.inf, 0

    def note(self, step: int, reward: float, policy: Policy, config_hash: str) -> None:
        """A validation after `step` gave this reward."""
        if not self.limit:
            return
        if reward > self.reward:
            self.step, self.reward, self.stale = step, reward, 0
            checkpoint.save(self.folder, step, {"policy": dict(policy.trainable())}, config_hash=config_hash)
        else:
            self.stale += 1

    @property
    def at_end(self) -> bool:
        """Whether the run is to stop."""
        return bool(self.limit) and self.stale >= self.limit

    def state_dict(self) -> dict[str, float]:
        """Where and how good the best was, and how long ago."""
        return {"step": self.step, "reward": self.reward, "stale": self.stale}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up a saved state."""
        self.step, self.reward, self.stale = int(state["step"]), float(state["reward"]), int(state["stale"])

    def restore(self, policy: Policy) -> bool:
        """Put the best weights into the policy; False when none were kept."""
        kept = [path for path in checkpoint.complete(self.folder) if path.name == f"step-{self.step}"]
        if not kept:
            return False
        state, _ = checkpoint.load(kept[0], need=("policy",))
        policy.load_trainable(state["policy"])
        return True

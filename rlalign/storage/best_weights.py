"""The weights of the best validation, in `best/step-N` of a run folder."""

from __future__ import annotations

from pathlib import Path

from rlalign.policies.base import Policy
from rlalign.storage import checkpoint

_FOLDER = "best"


class BestWeights:
    """Saves and loads the trainable weights of one validation.

    Args:
        run_folder: the run folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / _FOLDER

    def save(self, step: int, policy: Policy, config_hash: str) -> None:
        """Write the trainable weights after `step`."""
        checkpoint.save(self.folder, step, {"policy": dict(policy.trainable())}, config_hash=config_hash)

    def restore(self, step: int, policy: Policy) -> bool:
        """Load the weights that were saved after `step` into the policy; return False when there are none."""
        paths = [path for path in checkpoint.complete(self.folder) if path.name == f"step-{step}"]
        if not paths:
            return False
        state, _ = checkpoint.load(paths[0], need=("policy",))
        policy.load_trainable(state["policy"])
        return True

"""What happens when an update diverges: it is skipped and kept for inspection, and a run of them ends the run.

So does a run of steps without a single valid reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, RewardError
from rlalign.storage import checkpoint

_KEPT = 5


class FailureLimits:
    """Skipped updates in a row, counted for each kind of update by itself.

    Args:
        folder: the run folder; batches are kept in `faults/` of it.
        limit: that many in a row end the run.
        config_hash: of the run.
    """

    def __init__(self, folder: Path, limit: int, config_hash: str) -> None:
        self.folder, self.limit, self.config_hash = folder / "faults", limit, config_hash
        self.in_a_row: dict[str, int] = {}
        self._step, self._batches = 0, dict[str, dict[str, Any]]()

    def passed(self, kind: str) -> None:
        """An update of this kind was made."""
        self.in_a_row[kind] = 0

    def skipped(self, kind: str, step: int, error: FaultError, batch: Mapping[str, Any]) -> str:
        """An update of this kind was skipped: keep its batch and say so. Raises FaultError when that repeats."""
        count = self.in_a_row[kind] = self.in_a_row.get(kind, 0) + 1
        if step != self._step:
            self._step, self._batches = step, {}
        before = len(self._batches)  # a step may skip several of its minibatches
        self._batches[f"batch_{before + 1}" if before else "batch"] = dict(batch)
        path = checkpoint.save(self.folder, step, self._batches, config_hash=self.config_hash, keep=_KEPT)
        message = f"step {step}: {error}; the update was skipped, its batch is in '{path}'"
        if count >= self.limit:
            raise FaultError(f"{message}; {count} in a row, so the run stops") from error
        return message

    def unrewarded(self, step: int, why: str) -> str:
        """No sample of this step has a valid reward: say so. Raises RewardError when that repeats."""
        count = self.in_a_row["reward"] = self.in_a_row.get("reward", 0) + 1
        message = f"step {step}: no sample has a valid reward ({why or 'none applies'}), so there is no gradient"
        if count >= self.limit:
            raise RewardError(f"{message}; {count} in a row, so the run stops")
        return message

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return dict(self.in_a_row)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state_dict()`."""
        self.in_a_row = dict(state)

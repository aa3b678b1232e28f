"""Limits on failures in a row: skipped updates, whose batches are stored, and steps without a valid reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, RewardError
from rlalign.storage import checkpoint

_STORED_STEPS = 5  # steps whose skipped batches are kept in faults/


class FailureLimits:
    """Counts failures in a row, separately for each kind, and ends the run at the limit.

    Args:
        folder: the run folder; batches of skipped updates are stored in `faults/` of it.
        limit: failures in a row that end the run.
        config_hash: fingerprint of the run's configuration.
    """

    def __init__(self, folder: Path, limit: int, config_hash: str) -> None:
        self.folder = folder / "faults"
        self.limit = limit
        self.config_hash = config_hash
        self.in_a_row: dict[str, int] = {}
        self._step = 0  # the step that `_batches` belong to
        self._batches: dict[str, dict[str, Any]] = {}

    def record_success(self, kind: str) -> None:
        """Set the count of a kind back to 0."""
        self.in_a_row[kind] = 0

    def record_skipped_update(self, kind: str, step: int, error: FaultError, batch: Mapping[str, Any]) -> str:
        """Count a skipped update and store its batch; return a warning to print.

        Args:
            kind: "policy" or "supervised".
            step: the step of the update.
            error: why it was skipped.
            batch: its tensors.

        Raises:
            FaultError: at the limit.
        """
        count = self._count(kind)
        if step != self._step:
            self._step = step
            self._batches = {}
        skipped_before = len(self._batches)  # several minibatches of one step can be skipped
        self._batches[f"batch_{skipped_before + 1}" if skipped_before else "batch"] = dict(batch)
        path = checkpoint.save(self.folder, step, self._batches, config_hash=self.config_hash, keep=_STORED_STEPS)
        message = f"step {step}: {error}; the update was skipped, its batch is in '{path}'"
        if count >= self.limit:
            raise FaultError(f"{message}; {count} in a row, so the run stops") from error
        return message

    def record_step_without_reward(self, step: int, reasons: str) -> str:
        """Count a step in which no sample has a valid reward; return a warning to print.

        Raises:
            RewardError: at the limit.
        """
        count = self._count("reward")
        message = f"step {step}: no sample has a valid reward ({reasons or 'none applies'}), so there is no gradient"
        if count >= self.limit:
            raise RewardError(f"{message}; {count} in a row, so the run stops")
        return message

    def _count(self, kind: str) -> int:
        self.in_a_row[kind] = self.in_a_row.get(kind, 0) + 1
        return self.in_a_row[kind]

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return dict(self.in_a_row)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` returned."""
        self.in_a_row = dict(state)

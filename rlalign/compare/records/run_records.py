"""Records of runs, read from their folders: completion, held-out rewards per prompt, and learning curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.algorithms import UNTRAINED
from rlalign.compare.records.run_curves import held_out_curve, training_curve, untrained_curve
from rlalign.compare.results.schema import Curve
from rlalign.compare.study import Cell
from rlalign.storage.jsonl import read_metrics
from rlalign.training.hooks import STOPPED_BY_CALLBACK
from rlalign.training.kl_budget import STOPPED
from rlalign.types import FloatArray

_EVALUATION = Path("report", "evaluation.json")
HELD_OUT = "held-out reward"
TRAINING = "reward of the training samples"


@dataclass(frozen=True)
class Record:
    """The result of one cell.

    Attributes:
        cell: the cell.
        failure: why it has no result; None for a finished cell.
        before, after: held-out metric -> [P], one value per prompt; empty for a failed cell.
        samples: prompt, and completions before and after training.
        held_out: curve of the held-out reward; None if the run was not evaluated during training.
        training: curve of the reward of the training samples.
    """

    cell: Cell
    failure: str | None
    before: dict[str, FloatArray]
    after: dict[str, FloatArray]
    samples: list[dict[str, Any]]
    held_out: Curve | None
    training: Curve

    @property
    def prompts(self) -> list[str]:
        """The held-out prompts."""
        return [sample["prompt"] for sample in self.samples]


def evaluation_of(folder: Path) -> dict[str, Any]:
    """Return a run's evaluation before and after training.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    evaluation: dict[str, Any] = json.loads((folder / _EVALUATION).read_text(encoding="utf-8"))
    return evaluation


def finished(folder: Path) -> bool:
    """Return whether a run, by any trainer, has reached its end and was evaluated prompt by prompt.

    The end is the last step, or an earlier one at which early stopping, the KL budget or a callback ended the run.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        evaluation = evaluation_of(folder)
    except (OSError, ValueError):
        return False
    rows = read_metrics(folder)
    if "prompts" not in evaluation or not rows:
        return False
    if rows[-1]["step"] >= config["steps"] or rows[-1].get(STOPPED) or rows[-1].get(STOPPED_BY_CALLBACK):
        return True
    return _stopped_early(rows, config["evaluation"].get("patience", 0))


def _stopped_early(rows: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Return whether the last `patience` validations all brought no new best reward: see training/early_stopping.py."""
    rewards = [row["eval/reward"] for row in rows if "eval/reward" in row]
    # Index of the best validation, from 1; 0 if none had a reward, since the leading −inf is then the first maximum.
    best = int(np.argmax([-math.inf, *(-math.inf if reward is None else reward for reward in rewards)]))
    return bool(patience) and len(rewards) - best >= patience


def final_reward(folder: Path, when: str = "after") -> float:
    """Return the mean held-out reward of a finished run; NaN if no prompt could be scored.

    Args:
        folder: the run folder.
        when: "after" or "before" training.
    """
    values = np.array(evaluation_of(folder)["prompts"][when]["reward"], dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def read_record(cell: Cell, failure: str | None = None) -> Record:
    """Return a cell's record; of a failed cell, only its training curve.

    Args:
        cell: the cell.
        failure: why it failed; None if it did not.
    """
    rows = read_metrics(cell.folder)
    training = training_curve(cell.config, rows)
    if failure is not None or not (cell.folder / _EVALUATION).is_file():
        return Record(cell, failure or "not finished", {}, {}, [], None, training)
    evaluation = evaluation_of(cell.folder)
    before, after = (
        {name: np.array(values, dtype=float) for name, values in evaluation["prompts"][when].items()}
        for when in ("before", "after")
    )
    start = float(np.nanmean(before["reward"]))
    if cell.config.algorithm in UNTRAINED:
        curve = untrained_curve(float(np.nanmean(after["reward"])))
        return Record(cell, None, before, after, evaluation["samples"], curve, curve)
    held_out = held_out_curve(cell.config, rows, start)
    return Record(cell, None, before, after, evaluation["samples"], held_out, training)


def seconds_of(records: list[Record]) -> float:
    """Return the computing time of the steps of all records."""
    return sum(row.get("time/step") or 0.0 for record in records for row in read_metrics(Path(record.cell.folder)))

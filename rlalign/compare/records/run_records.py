"""What a run folder says of itself, read back: whether it is done, held-out rewards prompt for prompt, its curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.compare.results.schema import Curve
from rlalign.compare.study import Cell
from rlalign.config.schema import TrainConfig
from rlalign.storage.jsonl import read_metrics
from rlalign.types import FloatArray

_EVALUATION = Path("report", "evaluation.json")
HELD_OUT, TRAINING = "held-out reward", "reward of the training samples"


@dataclass(frozen=True)
class Record:
    """One cell as it was found.

    Attributes:
        cell: which one.
        failure: why it has no result; None for a finished one.
        before, after: held-out metric -> one value a prompt; empty when it failed.
        samples: prompt, before and after (texts).
        held_out, training: the curve by either reward; the first is None when the run was not evaluated on its way.
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
        return [s["prompt"] for s in self.samples]


def evaluation_of(folder: Path) -> dict[str, Any]:
    """The run's own before and after. Raises OSError or ValueError where there is none or it is damaged."""
    found: dict[str, Any] = json.loads((folder / _EVALUATION).read_text(encoding="utf-8"))
    return found


def finished(folder: Path) -> bool:
    """True for a run folder whose run went to its end and was evaluated, prompt for prompt, whoever trained it.

    The end is the last step, or where the run's patience was over.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        report = evaluation_of(folder)
    except (OSError, ValueError):
        return False
    rows = read_metrics(folder)
    if "prompts" not in report or not rows:
        return False
    return rows[-1]["step"] >= config["steps"] or _gave_up(rows, config["evaluation"].get("patience", 0))


def _gave_up(rows: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """True where so many validations, the last ones, brought nothing better than an earlier one: see patience.py."""
    seen = [row["eval/reward"] for row in rows if "eval/reward" in row]
    best = int(np.argmax([-math.inf, *(-math.inf if v is None else v for v in seen)]))  # 0: none had a reward
    return bool(patience) and len(seen) - best >= patience


def final_reward(folder: Path, when: str = "after") -> float:
    """Mean held-out reward of a finished run, or `before` it; NaN where no prompt could be scored."""
    values = np.array(evaluation_of(folder)["prompts"][when]["reward"], dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def read_record(cell: Cell, failure: str | None = None) -> Record:
    """A cell's record; with a failure, what there is of it."""
    rows = read_metrics(cell.folder)
    if failure is not None or not (cell.folder / _EVALUATION).is_file():
        return Record(cell, failure or "not finished", {}, {}, [], None, _training(cell.config, rows))
    data = evaluation_of(cell.folder)
    before, after = (
        {k: np.array(v, dtype=float) for k, v in data["prompts"][when].items()} for when in ("before", "after")
    )
    start = float(np.nanmean(before["reward"]))
    return Record(
        cell, None, before, after, data["samples"], _held_out(cell.config, rows, start), _training(cell.config, rows)
    )


def _held_out(config: TrainConfig, rows: list[dict[str, Any]], start: float) -> Curve | None:
    """Points after the steps that ended in an evaluation, and the start."""
    at = [i for i, row in enumerate(rows) if row.get("eval/reward") is not None]
    if not at:
        return None
    spent = _spent(config, rows)
    return Curve(
        step=[0, *(int(rows[i]["step"]) for i in at)],
        samples=[0.0, *(spent["samples"][i + 1] for i in at)],
        tokens=[0.0, *(spent["tokens"][i + 1] for i in at)],
        updates=[0.0, *(spent["updates"][i + 1] for i in at)],
        seconds=[0.0, *(spent["seconds"][i + 1] for i in at)],
        reward=[start, *(rows[i]["eval/reward"] for i in at)],
        kl=[0.0, *(rows[i].get("eval/kl") for i in at)],
    )


def _training(config: TrainConfig, rows: list[dict[str, Any]]) -> Curve:
    """The samples of step k show the policy after k − 1 steps, and that is where their reward is drawn."""
    spent = _spent(config, rows)
    return Curve(
        step=[int(row["step"]) - 1 for row in rows],
        samples=spent["samples"][:-1],
        tokens=spent["tokens"][:-1],
        updates=spent["updates"][:-1],
        seconds=spent["seconds"][:-1],
        reward=[row.get("reward/mean") for row in rows],
        kl=[row.get("rollout/kl") for row in rows],
    )


def _spent(config: TrainConfig, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Budget -> what was spent before each step and at the end.

    Samples that dynamic sampling threw away and greedy baselines count; their tokens are taken to be as many a sample
    as those of the samples that were kept.
    """
    greedy = 1 + (1 / config.rollout.group_size if config.objective.needs_greedy else 0.0)
    updates = config.learner.epochs * config.learner.minibatches
    steps = {
        "samples": [config.samples_per_step * greedy * (row.get("rollout/draws") or 1.0) for row in rows],
        "tokens": [(row.get("rollout/tokens") or 0.0) * greedy * (row.get("rollout/draws") or 1.0) for row in rows],
        "updates": [updates * (1.0 - (row.get("train/skipped") or 0.0)) for row in rows],
        "seconds": [row.get("time/step") or 0.0 for row in rows],
    }
    return {name: [0.0, *np.cumsum(values).tolist()] for name, values in steps.items()}


def seconds_of(records: list[Record]) -> float:
    """Computing time of the steps of all records."""
    return sum(row.get("time/step") or 0.0 for r in records for row in read_metrics(Path(r.cell.folder)))

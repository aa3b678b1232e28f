"""One cell: an ordinary run in a process of its own, whoever its trainer is.

A competitor from outside (`rlalign.integrations`) leaves the same run folder behind: config.json, metrics.jsonl (step,
reward/mean, rollout/tokens, time/step and, every `evaluation.every` steps, eval/reward and eval/kl), samples.jsonl and
report/evaluation.json, the last of them last.
"""

from __future__ import annotations

import json
from pathlib import Path

from rlalign.config import TrainConfig
from rlalign.integrations import train_any
from rlalign.tracking import read_metrics


def finished(folder: Path) -> bool:
    """True for a run folder whose run went to its end and was evaluated."""
    try:
        config = json.loads((folder / "config.json").read_text())
        report = json.loads((folder / "report" / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    rows = read_metrics(folder)
    return "prompts" in report and bool(rows) and rows[-1]["step"] >= config["steps"]


def train(config: TrainConfig) -> int:
    """Train a cell's run to its end; returns the exit status."""
    run, _ = train_any(config, quiet=True)
    return run.exit_status

"""One cell: an ordinary run in a process of its own, whoever its trainer is.

A competitor from outside is a module with `train_run(config, *, quiet=True)`, which leaves the same run folder behind:
config.json, metrics.jsonl (step, reward/mean, rollout/tokens, time/step and, every `evaluation.every` steps,
eval/reward and eval/kl), samples.jsonl and report/evaluation.json (`rlalign.evaluation.write_comparison`), the last
of them last.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from rlalign.config import TrainConfig
from rlalign.tracking import read_metrics

TRAINERS = {"trl:": "rlalign.integrations.trl"}
"""Prefix of an algorithm's name -> module that trains it."""


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
    module = next((m for prefix, m in TRAINERS.items() if config.algorithm.startswith(prefix)), None)
    if module is not None:
        importlib.import_module(module).train_run(config, quiet=True)
        return 0
    from rlalign.experiment import train_run

    run, _ = train_run(config, quiet=True)
    return run.exit_status

"""When a cell is done: its run went to its end and was evaluated, whoever trained it."""

from __future__ import annotations

import json
from pathlib import Path

from rlalign.tracking import read_metrics


def finished(folder: Path) -> bool:
    """True for a run folder whose run went to its end and was evaluated, prompt for prompt."""
    try:
        config = json.loads((folder / "config.json").read_text())
        report = json.loads((folder / "report" / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    rows = read_metrics(folder)
    return "prompts" in report and bool(rows) and rows[-1]["step"] >= config["steps"]

"""The alarms of a run under way: read from its rows, said once, written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.diagnostics import ALARMS, alarms
from rlalign.tracking import read_metrics


class Watch:
    """Looks at every logged row. Its state is the run's metrics.jsonl, so a resumed run goes on where it was.

    Args:
        folder: the run folder; report/alarms.json lists the alarms, the step of each and what it means.
        console: where a new alarm is said.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.rows: list[Mapping[str, Any]] = []
        self.first: dict[str, int] = {}

    def resume(self) -> None:
        """Take up the rows that are in metrics.jsonl."""
        self.rows = list(read_metrics(self.folder))
        self.first = {}
        for row in self.rows:
            self._note(int(row["step"]), [name for name in ALARMS if row.get(f"alarm/{name}")])

    def look(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """alarm/NAME, 0 or 1, after a step with these metrics."""
        self.rows.append({"step": step, **metrics})
        there = alarms(self.rows)
        for name in self._note(step, [name for name in ALARMS if there[name]]):
            self.console.print(f"[yellow]alarm[/] {name}, step {step}: {ALARMS[name].says}", soft_wrap=True)
            self._write()
        return {f"alarm/{name}": float(value) for name, value in there.items()}

    def _note(self, step: int, names: list[str]) -> list[str]:
        new = [name for name in names if name not in self.first]
        self.first |= dict.fromkeys(new, step)
        return new

    def _write(self) -> None:
        path = self.folder / "report" / "alarms.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {name: {"step": step, "says": ALARMS[name].says} for name, step in self.first.items()}
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

"""A study of 4 algorithms × 2 environments × 10 seeds, killed in the middle and continued: does it end the same?

    python benchmarks/kill_and_continue.py [FOLDER]

The study runs twice from the command line. One run is left alone. The other is killed with SIGKILL, all its processes
at once, when half of its cells are done and one is in the middle, and the same command is given again. Then the two are
compared: results.json, results.csv, the pictures, the trained weights byte for byte, and report.html; left out is what
is made of the clock (seconds, dates) and the folder's name. Prints what was found and writes
benchmarks/results/kill_and_continue.json; the exit status is 1 where anything differs.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write

from rlalign.compare.output.html import render
from rlalign.compare.records.run_records import finished
from rlalign.compare.results.results_json import from_json, read_results, to_json
from rlalign.compare.results.schema import Results
from rlalign.storage import checkpoint

FLAGS = shlex.split(
    "--algorithms reinforce,rloo,grpo,ppo --envs reverse,sort --policy gru --seeds 10 --steps 8 --save_every 2 "
    "--evaluation.every 4 --evaluation.prompts 16 --jobs 2"
)
CELLS = 4 * 2 * 10
CLOCK = ("created", "commit", "command")
PICTURES = ("frontier-*.png", "profile*.png", "scores.png")  # learning curves are drawn against seconds, too


def study(folder: Path) -> subprocess.Popen[bytes]:
    """The command, leading a group of processes of its own."""
    command = [sys.executable, "-m", "rlalign", "compare", *FLAGS, "--output", str(folder)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def cells(folder: Path) -> list[Path]:
    """The run folders that are there."""
    return sorted(p.parent for p in folder.glob("cells/*/*/seed-*/config.json"))


def in_the_middle(cell: Path) -> bool:
    """True for a run that has a checkpoint to go on from and is not at its end."""
    return not finished(cell) and bool(checkpoint.complete(cell / "checkpoints"))


def killed(folder: Path, at: int) -> dict[str, int]:
    """Start the study and kill all of it when so many cells are done. Returns what was there then."""
    process = study(folder)
    while sum(map(finished, cells(folder))) < at or not any(map(in_the_middle, cells(folder))):
        if process.poll() is not None:
            raise SystemExit("the study ended before it could be killed")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = cells(folder)
    done = sum(map(finished, there))
    under_way = [cell for cell in there if not finished(cell)]
    return {
        "finished": done,
        "under way": len(under_way),
        "under way with a checkpoint": sum(map(in_the_middle, under_way)),
        "not begun": CELLS - len(there),
    }


def without_clock(results: Results) -> Results:
    """The results without what two runs of one study may differ in: seconds, dates, and the folder's name."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: cleaned(v) for k, v in value.items() if k != "seconds"}
            if "seconds" in value and "step" in value:  # of a curve
                kept["seconds"] = value["step"]
            return kept
        return [cleaned(v) for v in value] if isinstance(value, list) else value

    data = cleaned(json.loads(to_json(results)))
    data["manifest"] |= {"seconds": 0.0, **dict.fromkeys(CLOCK, "")}
    return from_json(data)


def rows(folder: Path) -> list[dict[str, str]]:
    """results.csv without its columns of seconds."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """File -> sha256 of it."""
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def compared(one: Path, other: Path) -> dict[str, bool]:
    """Whether two folders of the study hold the same."""
    a, b = read_results(one), read_results(other)
    weights = [digests(folder, "cells/*/*/*/policy/*.safetensors") for folder in (one, other)]
    pictures = [digests(folder, *PICTURES) for folder in (one, other)]
    reports = [(folder / "report.html").read_text(encoding="utf-8") for folder in (one, other)]
    return {
        "results.json": without_clock(a) == without_clock(b),
        "results.csv": rows(one) == rows(other),
        "report.html is that of its results.json, in both": reports == [render(a), render(b)],
        "report.html": render(without_clock(a)) == render(without_clock(b)),
        "pictures": pictures[0] == pictures[1] and len(pictures[0]) > 0,
        "weights of all cells": weights[0] == weights[1] and len(weights[0]) == CELLS,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        began = time.perf_counter()
        if study(folder / "left-alone").wait() != 0:
            raise SystemExit("the study that was left alone failed")
        alone = time.perf_counter() - began
        then = killed(folder / "killed", CELLS // 2)
        before = digests(folder / "killed", "cells/*/*/*/report/evaluation.json")
        kept = {name: (folder / "killed" / name).stat().st_mtime_ns for name in before}
        began = time.perf_counter()
        if study(folder / "killed").wait() != 0:
            raise SystemExit("the study that was continued failed")
        rest = time.perf_counter() - began
        same = compared(folder / "left-alone", folder / "killed")
        again = sum((folder / "killed" / name).stat().st_mtime_ns != at for name, at in kept.items())
    result = {
        "command": shlex.join(["rlalign", "compare", *FLAGS]),
        "cells": CELLS,
        "at the kill": then,
        "finished cells that were run again": again,
        "the same": same,
        "seconds": {"left alone": round(alone, 1), "after the kill": round(rest, 1)},
    }
    print(json.dumps(result, indent=1))
    print(write("kill_and_continue", result))
    sys.exit(not all(same.values()) or again > 0)


if __name__ == "__main__":
    main()

"""Results of a study that was killed and continued, compared with those of an uninterrupted study.

    python benchmarks/kill_and_continue.py [FOLDER]

The study has 4 algorithms × 2 environments × 10 seeds and runs twice from the command line. One run is not interrupted.
The other is killed with SIGKILL, all its processes at once, when half of its cells are finished and one is under way;
then the same command runs again. The script compares results.json, results.csv, the pictures, the trained weights byte
for byte, and report.html. It ignores values that depend on the clock (seconds, dates) and the folder's name. It prints
the result and writes benchmarks/results/kill_and_continue.json. The exit status is 1 if anything differs.
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
PICTURES = (
    "frontier-*.png",
    "profile*.png",
    "scores.png",
)  # not the learning curves, which are drawn against seconds too


def study(folder: Path) -> subprocess.Popen[bytes]:
    """Start the command as the leader of its own process group, which one signal can kill."""
    command = [sys.executable, "-m", "rlalign", "compare", *FLAGS, "--output", str(folder)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def cells(folder: Path) -> list[Path]:
    """Return the existing run folders."""
    return sorted(p.parent for p in folder.glob("cells/*/*/seed-*/config.json"))


def in_the_middle(cell: Path) -> bool:
    """Return True for an unfinished run that has a checkpoint to resume from."""
    return not finished(cell) and bool(checkpoint.complete(cell / "checkpoints"))


def run_and_kill(folder: Path, after: int) -> dict[str, int]:
    """Start the study and kill it after a number of finished cells; return the numbers of cells by state."""
    process = study(folder)
    while sum(map(finished, cells(folder))) < after or not any(map(in_the_middle, cells(folder))):
        if process.poll() is not None:
            raise SystemExit("the study ended before it could be killed")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = cells(folder)
    done = sum(map(finished, begun))
    under_way = [cell for cell in begun if not finished(cell)]
    return {
        "finished": done,
        "under way": len(under_way),
        "under way with a checkpoint": sum(map(in_the_middle, under_way)),
        "not begun": CELLS - len(begun),
    }


def without_clock(results: Results) -> Results:
    """Return the results without the values in which two runs of one study may differ: seconds, dates, folder."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            rest = {k: cleaned(v) for k, v in value.items() if k != "seconds"}
            if "seconds" in value and "step" in value:  # a curve needs an axis of seconds
                rest["seconds"] = value["step"]
            return rest
        return [cleaned(v) for v in value] if isinstance(value, list) else value

    data = cleaned(json.loads(to_json(results)))
    data["manifest"] |= {"seconds": 0.0, **dict.fromkeys(CLOCK, "")}
    return from_json(data)


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv without the columns of seconds."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the sha256 of each matching file."""
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def compare(one: Path, other: Path) -> dict[str, bool]:
    """Return for each part of two study folders whether they are equal."""
    a = read_results(one)
    b = read_results(other)
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
        start = time.perf_counter()
        if study(folder / "left-alone").wait() != 0:
            raise SystemExit("the uninterrupted study failed")
        uninterrupted_seconds = time.perf_counter() - start
        at_kill = run_and_kill(folder / "killed", CELLS // 2)
        before = digests(folder / "killed", "cells/*/*/*/report/evaluation.json")
        times = {name: (folder / "killed" / name).stat().st_mtime_ns for name in before}
        start = time.perf_counter()
        if study(folder / "killed").wait() != 0:
            raise SystemExit("the continued study failed")
        continued_seconds = time.perf_counter() - start
        same = compare(folder / "left-alone", folder / "killed")
        # a cell that ran again wrote its evaluation again
        repeated = sum((folder / "killed" / name).stat().st_mtime_ns != t for name, t in times.items())
    result = {
        "command": shlex.join(["rlalign", "compare", *FLAGS]),
        "cells": CELLS,
        "at the kill": at_kill,
        "finished cells that were run again": repeated,
        "the same": same,
        "seconds": {"left alone": round(uninterrupted_seconds, 1), "after the kill": round(continued_seconds, 1)},
    }
    print(json.dumps(result, indent=1))
    print(write("kill_and_continue", result))
    sys.exit(not all(same.values()) or repeated > 0)


if __name__ == "__main__":
    main()

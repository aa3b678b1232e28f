"""Time of `rlalign train` without arguments: the first run of a new user (empty cache), and a second run.

    python benchmarks/first_run.py

Prints both times, and writes benchmarks/results/first_run.json and (from the second run) docs/images/first_run.png.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write

from rlalign.run import Run


def timed(folder: Path, cache: Path) -> dict[str, Any]:
    """Run the command; return wall-clock seconds and a summary of the run."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rlalign", "train", "--output", str(folder)],
        env={**os.environ, "RLALIGN_HOME": str(cache)},
        check=True,
    )
    return describe(folder, time.perf_counter() - start)


def describe(folder: Path, seconds: float) -> dict[str, Any]:
    """Return a summary of a finished run folder, with the seconds that the run took."""
    run = Run(folder)
    report = json.loads((folder / "report" / "evaluation.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "seconds_per_step": round(sorted(run.metrics["time/step"])[len(run.metrics["time/step"]) // 2], 2),
        "reward": [round(r, 3) for r in run.metrics["reward/mean"] if r is not None],
        "verdict": report["verdict"],
        "metrics": report["metrics"],
        "samples": report["samples"][:8],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        first = timed(folder / "first", folder / "cache")
        second = timed(folder / "second", folder / "cache")
        images = Path(__file__).parents[1] / "docs" / "images"
        shutil.copy(folder / "second" / "report" / "reward.png", images / "first_run.png")
    print(f"\nempty cache {first['seconds']:.0f} s, second run {second['seconds']:.0f} s")
    print(write("first_run", {"empty_cache": first, "again": second}))


if __name__ == "__main__":
    main()

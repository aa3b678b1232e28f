"""Generated command lines and data files, all of them: `python -m tests.fuzz --count 1000 --output FILE.json`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

from tests.fuzz import command_lines, data_files


def main() -> int:
    """Run the cases, print each fault, write the summary; return 1 if a case has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("command_lines", "data_files"), default=None)
    parser.add_argument("--output", type=Path, default=None, help="JSON file of the summary")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    modules = {"command_lines": command_lines, "data_files": data_files}
    summary: dict[str, Any] = {}
    for name, module in modules.items():
        if arguments.only in (None, name):
            summary[name] = run(module, arguments.count, arguments.seed)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n")
    return int(any(part["faults"] for part in summary.values()))


def run(module: Any, count: int, seed: int) -> dict[str, Any]:
    """Return counts by exit status, and the faults with their cases."""
    statuses: Counter[str] = Counter()
    faults = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rlalign-fuzz-") as parent:
        folder = Path(parent) / "a" / "b"
        folder.mkdir(parents=True)
        module.prepare(folder)
        for number, case in enumerate(module.generate(count, seed)):
            outcome = module.check(case, folder)
            statuses[str(outcome.status)] += 1
            if outcome.faults:
                faults.append({"number": number, "words": outcome.words, "faults": outcome.faults})
                said = outcome.escaped[-1500:] or outcome.stderr[-300:]
                print(number, outcome.words, outcome.faults, said, file=sys.stderr, flush=True)
    return {
        "seed": seed,
        "cases": count,
        "statuses": dict(sorted(statuses.items())),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "faults": faults,
    }


if __name__ == "__main__":
    sys.exit(main())

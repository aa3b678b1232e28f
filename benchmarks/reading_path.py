"""How much there is to read from `rlalign train` to the optimizer's first step: files, functions, lines, changes of file.

    python benchmarks/reading_path.py            # prints the counts and writes results/reading_path.json
    python benchmarks/reading_path.py --list     # also lists the functions in the order in which they are entered

Runs `rlalign train` for one step and records every function of the package that is entered before the optimizer's step,
in the order of its first call. Counted once each: functions (methods and properties included, comprehensions and lambdas
not), the files that hold them, and the lines of their definitions with docstrings and comments. A change of file is
counted where two functions that follow one another in that order stand in different files. Functions that are entered
only while the policy is evaluated before training are not counted.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

import rlalign

ROOT = Path(rlalign.__file__).resolve().parents[1]
FOLDERS = tuple(str(ROOT / name) + "/" for name in ("rlalign", "envs", "policies", "rewards"))
COMMAND = ["train", "--env", "reverse", "--policy", "gru", "--algorithm", "grpo", "--steps", "1"]


class StepReached(Exception):
    """Raised in place of the optimizer's step."""


def trace() -> list[CodeType]:
    """Return the code objects of the package in the order of their first call, up to the optimizer's step."""
    from rlalign.cli import main

    entered: dict[CodeType, None] = {}
    evaluating = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal evaluating
        code = frame.f_code
        if event not in ("call", "return") or not str(Path(code.co_filename).resolve()).startswith(FOLDERS):
            return
        if code.co_name == "evaluate" and code.co_filename.endswith("evaluation/evaluate.py"):
            evaluating += 1 if event == "call" else -1
        elif event == "call" and not evaluating and not code.co_name.startswith("<"):
            entered.setdefault(code)

    def stop(*_: Any, **__: Any) -> None:
        sys.setprofile(None)
        raise StepReached

    step = torch.optim.AdamW.step
    torch.optim.AdamW.step = stop  # type: ignore[method-assign]  # restored below
    with tempfile.TemporaryDirectory() as folder:
        try:
            sys.setprofile(profile)
            main([*COMMAND, "--output", folder + "/run"])
        except StepReached:
            pass
        finally:
            sys.setprofile(None)
            torch.optim.AdamW.step = step  # type: ignore[method-assign]
    return list(entered)


def count(codes: list[CodeType]) -> dict[str, int]:
    """Return the four counts of functions in reading order."""
    files = [str(Path(code.co_filename).resolve()) for code in codes]
    return {
        "functions": len(codes),
        "files": len(set(files)),
        "lines": sum(len(inspect.getsourcelines(code)[0]) for code in codes),
        "changes of file": sum(a != b for a, b in zip(files, files[1:], strict=False)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the functions")
    arguments = parser.parse_args()
    codes = trace()
    if arguments.list:
        for code in codes:
            path = Path(code.co_filename).resolve().relative_to(ROOT)
            print(f"{path}:{code.co_firstlineno}  {code.co_qualname}")
    print("  ".join(f"{name} {number}" for name, number in count(codes).items()))

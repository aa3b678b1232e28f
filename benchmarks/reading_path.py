"""How far it is from `rlalign train` to what an experiment consists of: files, functions, lines, changes of file.

    python benchmarks/reading_path.py            # prints the counts; --write also writes results/reading_path.json
    python benchmarks/reading_path.py --list     # also prints the calls from caller to callee

Runs one step of `rlalign train` and records the call stack at eight stations: the next tasks, a sampled token, a
reward, a log-prob, the baseline, the policy loss, the backward pass and the optimizer's step. Counted once each, over
the union of these stacks: the functions of this package, their files, the lines of their code (one per statement,
without docstrings and comments), and the calls whose caller and callee stand in different files. This is what one reads
on the way from the command to the mathematics. The evaluation before training is left out.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import os
import sys
import tempfile
import textwrap
from contextlib import redirect_stderr
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from machine import write

import rlalign

ROOT = Path(rlalign.__file__).resolve().parents[1]
FOLDERS = tuple(f"{ROOT / name}{os.sep}" for name in ("rlalign", "envs", "policies", "rewards"))
COMMAND = [
    "train",
    "--env",
    "reverse",
    "--policy",
    "gru",
    "--algorithm",
    "grpo",
    "--steps",
    "1",
    "--rollout.prompts",
    "2",
    "--evaluation.prompts",
    "2",
    "--output",
]
STATIONS = {  # functions of the package, and built-in functions of torch
    "TaskStream.next": "the next tasks",
    "searchsorted": "a sampled token",
    "token_match": "a reward",
    "logsumexp": "a log-prob",
    "group_mean": "the baseline",
    "clip": "the policy loss",
    "run_backward": "the backward pass",
}

Call = tuple[CodeType, CodeType]


class StepReached(Exception):
    """Raised in place of the optimizer's step."""


class Recorder:
    """Records the calls on the way to the stations, as a profiling function of the interpreter."""

    def __init__(self) -> None:
        self.calls: dict[Call, None] = {}  # in the order in which they first occur
        self.reached: set[str] = set()
        self._in_package: dict[CodeType, bool] = {}  # a cache: resolving a path takes long

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record the stack when a station is entered."""
        if event == "c_call":
            name = getattr(argument, "__name__", "")
        elif event == "call" and self.in_package(frame.f_code):
            name = frame.f_code.co_qualname
        else:
            return
        if name in STATIONS:
            self.record(name, frame)

    def record(self, station: str, frame: FrameType | None) -> None:
        """Add the calls of the stack below a frame."""
        stack = []
        while frame is not None:
            code = frame.f_code
            if code.co_name == "evaluate" and code.co_filename.endswith("evaluation/evaluate.py"):
                return
            if code.co_name == "_metrics":  # computes the clipped share, beside the loss
                return
            if self.in_package(code) and not code.co_name.startswith("<"):  # comprehensions are part of their function
                stack.append(code)
            frame = frame.f_back
        self.reached.add(station)
        stack.reverse()
        for caller, callee in zip(stack, stack[1:], strict=False):  # noqa: RUF007 - pairwise hides the order
            self.calls.setdefault((caller, callee))

    def in_package(self, code: CodeType) -> bool:
        """Return whether a function is of this package."""
        if code not in self._in_package:
            self._in_package[code] = str(Path(code.co_filename).resolve()).startswith(FOLDERS)
        return self._in_package[code]


def trace() -> Recorder:
    """Run the command up to the optimizer's step."""
    from rlalign.cli import main

    recorder = Recorder()

    def stop(*_: Any, **__: Any) -> None:
        sys.setprofile(None)
        recorder.record("step", sys._getframe(1))
        raise StepReached

    step = torch.optim.AdamW.step
    torch.optim.AdamW.step = stop  # type: ignore[method-assign, assignment]  # restored below
    with tempfile.TemporaryDirectory() as folder:
        try:
            with redirect_stderr(io.StringIO()):  # the command reports that the step failed
                sys.setprofile(recorder)
                main([*COMMAND, f"{folder}/run"])
        finally:
            sys.setprofile(None)
            torch.optim.AdamW.step = step  # type: ignore[method-assign]
    missing = {*STATIONS, "step"} - recorder.reached
    assert not missing, f"never reached: {missing}"
    return recorder


def path_of(code: CodeType) -> str:
    """Return the file of a function, relative to the repository."""
    return str(Path(code.co_filename).resolve().relative_to(ROOT))


def code_lines(code: CodeType) -> int:
    """Return the lines of a function's code, one per statement, without docstrings, comments and blank lines."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(code))).body
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return len(ast.unparse(function).splitlines())


def count(calls: list[Call]) -> dict[str, int]:
    """Return the four counts."""
    functions = dict.fromkeys(code for call in calls for code in call)
    return {
        "functions": len(functions),
        "files": len({path_of(code) for code in functions}),
        "lines": sum(code_lines(code) for code in functions),
        "changes of file": sum(path_of(caller) != path_of(callee) for caller, callee in calls),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the calls")
    parser.add_argument("--write", action="store_true", help="write results/reading_path.json")
    arguments = parser.parse_args()
    calls = list(trace().calls)
    if arguments.list:
        for caller, callee in calls:
            print(f"{path_of(caller)}:{caller.co_qualname}  ->  {path_of(callee)}:{callee.co_qualname}")
    counts = count(calls)
    print("  ".join(f"{name} {number}" for name, number in counts.items()))
    if arguments.write:
        write("reading_path", {"counts": counts})

"""Latency of the command line: --help, lists and mistakes, beside the import of torch, in processor time.

    python benchmarks/cli.py [--repeats 5]

Each command runs in a new process, in turn with `python -c "import torch"`. It prints the median of the ratios and
writes benchmarks/results/cli.json. A mistake and --help must stay below 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from machine import write

from rlalign.cli import COMMANDS

MISTAKES = {"a mistyped command": ["trian"], "a mistyped flag": ["train", "--stpes", "3"]}
LISTS = {f"list {what}": ["list", what] for what in ("envs", "rewards", "algorithms", "policies", "metrics")}
HELP = {f"{command} --help": [command, "--help"] for command in COMMANDS}


def seconds(command: list[str]) -> float:
    """Return the processor time of a process and its children."""
    before = os.times()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure all commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    ratios = {}
    for name, arguments in {**MISTAKES, "--help": ["--help"], **HELP, **LISTS}.items():
        pairs = [seconds(["-m", "rlalign", *arguments]) / seconds(["-c", "import torch"]) for _ in range(repeats)]
        ratios[name] = round(statistics.median(pairs), 2)
        print(f"{name:24} {ratios[name]:.2f}", flush=True)
    print(write("cli", {"ratios": ratios}))


if __name__ == "__main__":
    main()

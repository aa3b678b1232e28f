"""A random sample of mutants of the mathematics and the loop, and the share that the tests kill.

    python -m tests.mutants.sample                       # 300 mutants, seed 0; some hours on two cores
    python -m tests.mutants.sample --count 20 --folders rlalign/objective
    python -m tests.mutants.sample --mutants 'rlalign/objective/kl.py:14:13: 20.0 -> 40.0'    # tries it again
    python -m tests.mutants.sample --survivors           # prints those that live, and runs nothing

The tests are run once to note which lines each of them reaches. A mutant is tried with the tests that reach its lines,
the fastest first, up to 25 seconds of them. It is killed when one of them fails. A loop without end is a failure too:
a mutant is also killed when its process has taken 60 seconds of CPU time, or when ten minutes are over, which only
processes reach that wait for each other. Both are also counted apart. Other work on the machine kills no mutant.

Results are kept in benchmarks/results/mutants.json, and a repeated command continues there. A mutant is stored under
its text and its line, which later commits can move: remove the old entry when you try it again by its text on the
present line. `equivalent.toml` gives the reason for each mutant that lives because it changes no result.

Once tests have been written for the mutants of a sample that lived, its share tells nothing about other mutants. Draw
another sample by --seed to estimate that of the present tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from scipy import stats

from tests.mutants.mutations import Mutation, mutations
from tests.mutants.plant import ROOT, copy_tree, result_of, with_error

FOLDERS = (
    "rlalign/objective",
    "rlalign/training",
    "rlalign/rollout",
    "policies/scoring",
    "policies/sampling",
    "envs/vector_env.py",
    "rlalign/compare/analysis",
)
RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
KILLED = ("killed", "timeout", "stuck")
_SECONDS = 25
_LEFT_OUT = ("docs", "mutants", "gpu", "fuzz", "report")
"""Folders of tests that execute no mathematics, or only in other processes."""


class Reached:
    """The tests that reach each line, from a run of all tests under coverage.

    Args:
        folder: of the files that `contexts.py` wrote.
    """

    def __init__(self, folder: Path) -> None:
        import coverage

        self._data = coverage.CoverageData(no_disk=True)
        self._seconds: dict[str, float] = {}
        for path in sorted(folder.glob("*.json")):
            part = coverage.CoverageData(str(path.with_suffix(".coverage")))
            part.read()
            self._data.update(part)
            self._seconds |= json.loads(path.read_text())

    def tests(self, mutation: Mutation) -> list[str]:
        """Return the fastest tests that reach the lines of a mutation; for lines that none reaches, its file."""
        by_line = self._data.contexts_by_lineno(str(ROOT / mutation.file))
        reached = set().union(*(by_line.get(n, ()) for n in range(mutation.line, mutation.last + 1)))
        reached &= self._seconds.keys()
        if not reached:  # an import executes it, or nothing
            reached = set().union(*by_line.values()) & self._seconds.keys()
        chosen, total = [], 0.0
        for test in sorted(reached, key=lambda t: (self._seconds[t], t)):
            total += self._seconds[test]
            if chosen and total > _SECONDS:
                break
            chosen.append(test)
        return chosen


def measure_coverage(folder: Path, workers: int) -> None:
    """Run all tests once, their files divided between processes, and note the lines that each test reaches."""
    files = sorted(p for p in (ROOT / "tests").rglob("test_*.py") if p.relative_to(ROOT).parts[1] not in _LEFT_OUT)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "tests.mutants.contexts"]
    parts = [
        subprocess.Popen(
            [*command, *map(str, files[i::workers])],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RLALIGN_CONTEXTS": str(folder / str(i))},
        )
        for i in range(workers)
    ]
    for part in parts:
        part.wait()


def all_mutations(folders: list[str]) -> list[Mutation]:
    """Return the mutations of all files in the folders."""
    files = [
        f for folder in folders for f in ([ROOT / folder] if folder.endswith(".py") else (ROOT / folder).glob("*.py"))
    ]
    return [m for file in sorted(files) for m in mutations(ROOT, str(file.relative_to(ROOT)))]


def draw(count: int, seed: int, folders: list[str]) -> list[Mutation]:
    """Return a random sample of the mutations of all files in the folders."""
    every = all_mutations(folders)
    return random.Random(seed).sample(every, min(count, len(every)))


def named(texts: list[str]) -> list[Mutation]:
    """Return mutations by their texts."""
    by_text = {m.describe((ROOT / m.file).read_bytes()): m for m in all_mutations(list(FOLDERS))}
    unknown = [text for text in texts if text not in by_text]
    if unknown:
        raise SystemExit("\n".join(["no such mutant of the present sources:", *unknown]))
    return [by_text[text] for text in texts]


def try_all(sample: list[Mutation], reached: Reached, done: dict[str, str], workers: int) -> None:
    """Try each mutation that is not done, and write the results after each."""
    trees: Queue[Path] = Queue()

    def attempt(mutation: Mutation) -> None:
        source = (ROOT / mutation.file).read_bytes()
        key = mutation.describe(source)
        if key in done:
            return
        tests = reached.tests(mutation)
        result = "not reached"
        if tests:
            tree = trees.get()
            try:
                with with_error(tree, mutation.file, mutation.apply(source).decode()):
                    result = result_of(tree, tests)
            finally:
                trees.put(tree)
        done[key] = result
        print(f"{len(done)}: {result}: {key}", flush=True)
        _write(done)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        for i in range(workers):
            trees.put(copy_tree(Path(folder) / str(i)))
        for future in [pool.submit(attempt, mutation) for mutation in sample]:
            future.result()


def _write(done: dict[str, str]) -> None:
    RESULTS.write_text(json.dumps({"by_folder": table(done), "mutants": dict(sorted(done.items()))}, indent=1) + "\n")


def table(done: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return counts by folder, and the share of killed mutants with its exact 95 % interval.

    Mutants that `equivalent.toml` names are left out of the share.
    """
    equal = equivalent()
    counts: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, result in done.items():
        for folder in ("all", next(f for f in FOLDERS if key.startswith(f))):
            groups[folder].append((key, result))
    for folder, entries in groups.items():
        killed = sum(result in KILLED for _, result in entries)
        same = sum(result not in KILLED and key in equal for key, result in entries)
        total = len(entries) - same
        interval = stats.binomtest(killed, total).proportion_ci() if total else None
        counts[folder] = {
            "mutants": len(entries), "killed": killed,
            "timeouts": sum(result in ("timeout", "stuck") for _, result in entries),
            "equivalent": same, "lives": total - killed,
            "share": round(killed / total, 3) if total else None,
            "interval": [round(interval.low, 3), round(interval.high, 3)] if interval else None,
        }  # fmt: skip
    return counts


def equivalent() -> dict[str, str]:
    """Return the mutants that change no result, with the reasons."""
    if not EQUIVALENT.exists():
        return {}
    return {entry["mutant"]: entry["reason"] for entry in tomllib.loads(EQUIVALENT.read_text()).get("equivalent", [])}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--contexts", type=Path, help="folder of an earlier run under coverage")
    parser.add_argument("--mutants", nargs="+", default=[], help="texts of mutants to try again, instead of a sample")
    parser.add_argument("--survivors", action="store_true", help="print the mutants that live")
    options = parser.parse_args()
    done: dict[str, str] = json.loads(RESULTS.read_text())["mutants"] if RESULTS.exists() else {}
    if not options.survivors:
        contexts = options.contexts or Path(tempfile.mkdtemp())
        if not list(contexts.glob("*.json")):
            contexts.mkdir(parents=True, exist_ok=True)
            measure_coverage(contexts, options.workers)
        sample = named(options.mutants) or draw(options.count, options.seed, options.folders)
        for text in options.mutants:
            done.pop(text, None)
        try_all(sample, Reached(contexts), done, options.workers)
    equal = equivalent()
    for key, result in sorted(done.items()):
        if result not in KILLED:
            print(f"{result}: {key}" + (f"  ({equal[key]})" if key in equal else ""))
    for folder, row in table(done).items():
        print(folder, row)


if __name__ == "__main__":
    main()

"""Laws of a source of tasks: the same in every process, and no task in two splits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import cloudpickle

from rlalign.envs.task_sources import SPLITS, digest
from rlalign.types import Split, TaskSource

_DIGESTS = """
import sys, json, cloudpickle
source, wanted = cloudpickle.loads(sys.stdin.buffer.read())
from rlalign.checks.tasks import task_digests
print(json.dumps(task_digests(source, wanted)))
"""


def task_digests(source: TaskSource, wanted: Sequence[tuple[Split, int]]) -> list[str]:
    """sha256 of tasks, for comparison between processes."""
    tasks = [source.get(split, index) for split, index in wanted]
    return [digest([task.prompt, dict(task.columns)]) for task in tasks]


def equal_tasks(source: TaskSource) -> str:
    """What differs when the first tasks of each split are made again, here and in another process; or nothing."""
    wanted: list[tuple[Split, int]] = [(split, i) for split in SPLITS for i in range(_count(source, split, 5))]
    here = task_digests(source, wanted)
    if here != task_digests(source, wanted):
        return "a task changed when it was asked for again"
    for module in [m for name, m in sys.modules.items() if name.startswith("rlalign_file_")]:
        cloudpickle.register_pickle_by_value(module)  # the other process cannot import it
    there = subprocess.run(
        [sys.executable, "-c", _DIGESTS], input=cloudpickle.dumps((source, wanted)), capture_output=True, check=False
    )
    if there.returncode:
        return f"no other process can make the tasks: {there.stderr.decode(errors='replace').strip().splitlines()[-1]}"
    return "" if json.loads(there.stdout) == here else "another process makes other tasks"


def disjoint(source: TaskSource) -> str:
    """A task that stands in two splits, or nothing."""
    seen: dict[str, Split] = {}
    for split in SPLITS:
        wanted: list[tuple[Split, int]] = [(split, i) for i in range(_count(source, split, 300))]
        for (_, index), content in zip(wanted, task_digests(source, wanted), strict=True):
            if seen.setdefault(content, split) != split:
                return f"{split} task {index} is in {seen[content]} too"
    return ""


def _count(source: TaskSource, split: Split, most: int) -> int:
    size = source.size(split)
    return most if size is None else min(size, most)

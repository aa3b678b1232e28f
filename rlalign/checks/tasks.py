"""Checks of a task source: the same tasks in every process, and no task in two splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import cloudpickle

from rlalign.envs.task_sources import SPLITS, digest
from rlalign.types import Split, TaskSource

# The program of the other process. It gets the source as bytes on its standard input.
_DIGESTS = """
import sys, json, cloudpickle
source, places = cloudpickle.loads(sys.stdin.buffer.read())
from rlalign.checks.tasks import task_digests
print(json.dumps(task_digests(source, places)))
"""

_COMPARED = 5  # tasks per split that two processes make
_SEARCHED = 300  # tasks per split that are searched for duplicates


def task_digests(source: TaskSource, places: Sequence[tuple[Split, int]]) -> list[str]:
    """Return the sha256 of tasks, for comparison between processes.

    Args:
        source: of the tasks.
        places: split and index of each task.
    """
    tasks = [source.get(split, index) for split, index in places]
    return [digest([task.prompt, dict(task.columns)]) for task in tasks]


def check_equal_tasks(source: TaskSource) -> str:
    """Return a difference between the first tasks of each split here, here again, and in another process."""
    places: list[tuple[Split, int]] = []
    for split in SPLITS:
        places += _places(source, split, _COMPARED)
    own = task_digests(source, places)
    if own != task_digests(source, places):
        return "a task changed on the second call; the source keeps state between calls of get"
    for module in [m for name, m in sys.modules.items() if name.startswith("rlalign_file_")]:
        cloudpickle.register_pickle_by_value(module)  # the other process cannot import a file's module by name
    process = subprocess.run(
        [sys.executable, "-c", _DIGESTS],
        input=cloudpickle.dumps((source, places)),
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # of the modules that it imports
    )
    if process.returncode:
        return (
            f"another process cannot make the tasks: {process.stderr.decode(errors='replace').strip().splitlines()[-1]}"
        )
    if json.loads(process.stdout) != own:
        return (
            "another process makes other tasks; the source depends on hash(), on the order of a set, or on a global "
            "random generator"
        )
    return ""


def check_disjoint_splits(source: TaskSource) -> str:
    """Return a task that is in two splits, of the first 300 of each."""
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        places = _places(source, split, _SEARCHED)
        for (_, index), content in zip(places, task_digests(source, places), strict=True):
            if split_of.setdefault(content, split) != split:
                return f"{split} task {index} is in {split_of[content]} too; evaluation would use training tasks"
    return ""


def check_several_tasks(source: TaskSource) -> str:
    """Return a split without a task, or a note that training has a single one."""
    for split in SPLITS:
        if source.size(split) == 0:
            return f"there are no {split} tasks; add data, or a column 'split', so that each split has some"
    if len(set(task_digests(source, _places(source, "train", _SEARCHED)))) == 1:
        return "all train tasks are equal; each step would have one prompt only: use a source of several tasks"
    return ""


def _places(source: TaskSource, split: Split, most: int) -> list[tuple[Split, int]]:
    size = source.size(split)
    return [(split, index) for index in range(most if size is None else min(size, most))]

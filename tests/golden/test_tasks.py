"""The same seed gives the same tasks on every machine: digests of some tasks of each split equal the committed ones.

python tests/golden/test_tasks.py > tests/data/tasks.json       # after an intended change of an environment
"""

import json
from pathlib import Path

import pytest

from rlalign.checks.tasks import task_digests
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_sources import SPLITS
from rlalign.errors import MissingExtraError
from rlalign.registry import ENVS

PAGE = Path(__file__).parents[1] / "data" / "tasks.json"
LEFT_OUT = {"rlalign/TextWorld-v0"}  # a compiler makes its games


def digests(name):
    """Return split -> the joined digests of its tasks 0, 2 and 999, if it has them."""
    source = make_mdp(name).source
    pinned = {}
    for split in SPLITS:
        size = source.size(split)
        places = [(split, i) for i in (0, 2, 999) if size is None or i < size]
        pinned[split] = "".join(content[:8] for content in task_digests(source, places))
    return pinned


@pytest.mark.parametrize("name", json.loads(PAGE.read_text()) if PAGE.is_file() else [])
def test_tasks_did_not_change(name):
    try:
        assert digests(name) == json.loads(PAGE.read_text())[name]
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_every_environment_is_pinned():
    assert {*json.loads(PAGE.read_text()), *LEFT_OUT} == {name for name in ENVS if name.startswith("rlalign/")}


if __name__ == "__main__":
    names = [name for name in ENVS if name.startswith("rlalign/") and name not in LEFT_OUT]
    print(json.dumps({name: digests(name) for name in names}, indent=1))

"""The same seed gives the same tasks on every machine: digests of some of each split, as they were when committed.

python tests/golden/test_tasks.py > tests/data/tasks.json       # where an environment was meant to change
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
LEFT_OUT = {"rlalign/TextWorld-v0"}  # its games are made by a compiler


def digests(name):
    """One digest a split, of the first, the third and, of an unbounded one, the thousandth task."""
    source = make_mdp(name).source
    wanted = {s: [i for i in (0, 2, 999) if source.size(s) is None or i < source.size(s)] for s in SPLITS}
    return {s: "".join(d[:8] for d in task_digests(source, [(s, i) for i in wanted[s]])) for s in SPLITS}


@pytest.mark.parametrize("name", json.loads(PAGE.read_text()) if PAGE.is_file() else [])
def test_tasks_are_what_they_were(name):
    try:
        assert digests(name) == json.loads(PAGE.read_text())[name]
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_every_environment_is_pinned():
    assert {*json.loads(PAGE.read_text()), *LEFT_OUT} == {name for name in ENVS if name.startswith("rlalign/")}


if __name__ == "__main__":
    names = [name for name in ENVS if name.startswith("rlalign/") and name not in LEFT_OUT]
    print(json.dumps({name: digests(name) for name in names}, indent=1))

"""Pictures of runs: each one is freed when the next one is written."""

import gc
import json

import pytest

from rlalign.log.plots import plot_run

pytestmark = pytest.mark.pictures


@pytest.fixture(autouse=True)
def _nothing_is_frozen():
    """The tests freeze all modules for the other ones (tests/conftest.py)."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture
def run(tmp_path):
    """Return a run folder with metrics of two steps."""
    row = {"reward/mean": 0.5, "reward/ci95": 0.1, "rollout/length": 3.0}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": i, **row}) + "\n" for i in (1, 2)))
    return tmp_path


def test_pictures_do_not_accumulate(run):
    from matplotlib.figure import Figure

    gc.collect()
    before = sum(type(item) is Figure for item in gc.get_objects())
    gc.disable()  # Python would collect them late, and a run draws a picture at each save
    try:
        for _ in range(4):
            plot_run(run)
    finally:
        gc.enable()
    assert sum(type(item) is Figure for item in gc.get_objects()) <= before


def test_a_picture_is_freed_without_a_search_of_all_other_objects(run, monkeypatch):
    real, frozen = gc.collect, []

    def collect():
        frozen.append(gc.get_freeze_count())
        return real()

    monkeypatch.setattr(gc, "collect", collect)
    others = len(gc.get_objects())
    plot_run(run)
    assert frozen[0] > others / 2
    assert gc.get_freeze_count() == 0


def test_objects_that_a_program_has_frozen_stay_so(run):
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        plot_run(run)
        assert gc.get_freeze_count() > count / 2
    finally:
        gc.unfreeze()

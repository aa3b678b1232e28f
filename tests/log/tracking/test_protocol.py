"""Trackers by name, by file and by entry point, and those that a run refuses before it starts."""

import importlib.metadata

import pytest

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.config.serialize import update
from rlalign.config.validate import validate
from rlalign.errors import MissingExtraError, UserError
from rlalign.log.trackers import Tracker
from rlalign.log.tracking.protocol import build_tracker, check_trackers, selected
from rlalign.registry import Registry

FILE = '''
class Lines:
    """Writes each call as a line."""
    def open(self, folder, config):
        self.file = (folder / "lines.txt").open("w")
        self.line("open", config["steps"])
    def line(self, *words):
        print(*words, file=self.file, flush=True)
    def scalars(self, step, values):
        self.line("scalars", step, *values.items())
    def samples(self, step, rows):
        self.line("samples", step, *rows)
    def close(self):
        self.line("close")

def made():
    return Lines()

class NotOne: ...
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own_tracker.py"
    path.write_text(FILE)
    return path


def test_the_trackers_of_a_run_are_its_switches_and_its_list_each_once():
    tracking = TrackingConfig(wandb="offline", tensorboard=True, mlflow=True, trackers=("mlflow", "a.py:T", "a.py:T"))
    assert selected(tracking) == ["wandb", "tensorboard", "mlflow", "a.py:T"]
    assert selected(TrackingConfig()) == []


@pytest.mark.parametrize("name", ["Lines", "made"])
def test_a_tracker_of_a_file_gets_the_calls_in_order_and_may_lack_some(tmp_path, own, name):
    config = update(TrainConfig(), {"steps": 2, "tracking.trackers": [f"{own}:{name}"]})
    check_trackers(config.tracking)
    tracker = Tracker(tmp_path, config)
    sample = {"prompt": "p", "completion": "c", "reward": 0.5, "messages": [], "reward/x": 1.0}
    tracker.log(1, {"a": 1.0}, [sample])
    tracker.log(2, {"a": 2.0})
    tracker.finish("# card", {"reward": tmp_path / "none.png"})  # it has neither method
    tracker.close()
    row = {key: value for key, value in sample.items() if key != "messages"}
    assert (tmp_path / "lines.txt").read_text().splitlines() == [
        "open 2", "scalars 1 ('a', 1.0)", f"samples 1 {row}", "scalars 2 ('a', 2.0)", "close",
    ]  # fmt: skip


def test_few_tables_of_samples_are_written_in_a_long_run(tmp_path, own):
    config = update(TrainConfig(), {"steps": 100, "tracking.trackers": [f"{own}:Lines"]})
    tracker = Tracker(tmp_path, config)
    for step in range(1, 101):
        tracker.log(step, {}, [{"prompt": "p"}])
    tracker.close()
    steps = [int(line.split()[1]) for line in (tmp_path / "lines.txt").read_text().splitlines() if "samples" in line]
    assert steps == [1, *range(5, 101, 5)]


def test_unusable_trackers_are_refused_by_name(own):
    for spec, message in (
        ("wanbd", "unknown tracker 'wanbd'. Did you mean 'wandb'"),
        (f"{own}:NotOne", "expected a class with the method open"),
        (f"{own}:Line", "Did you mean 'Lines'"),
    ):
        with pytest.raises(UserError, match=message):
            check_trackers(TrackingConfig(trackers=(spec,)))
    with pytest.raises(UserError, match="expected a repository OWNER/NAME"):
        validate(TrainConfig(tracking=TrackingConfig(push="nobody")))


@pytest.mark.parametrize("settings", [{"mlflow": True}, {"trackers": ("mlflow",)}])
def test_a_missing_package_is_refused_before_anything_is_written(monkeypatch, settings):
    monkeypatch.setattr("rlalign.config.validate.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"expected the package 'mlflow'.*'\.\[mlflow\]'"):
        validate(TrainConfig(tracking=TrackingConfig(**settings)))


def test_an_installed_package_adds_a_tracker_by_entry_point(own, monkeypatch):
    point = importlib.metadata.EntryPoint("lines", f"{own}:Lines", "rlalign.trackers")
    monkeypatch.setattr("rlalign.registry.entry_points", lambda group: [point] if group == "rlalign.trackers" else [])
    fresh = Registry("tracker", group="rlalign.trackers")
    monkeypatch.setattr("rlalign.log.tracking.protocol.TRACKERS", fresh)
    assert type(build_tracker("lines")).__name__ == "Lines"

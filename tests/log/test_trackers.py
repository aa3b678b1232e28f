"""The log of a run: the files are complete even if trackers are slow, broken or die."""

import json
import math
import queue
import threading

import pytest

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.log.trackers import Tracker
from rlalign.log.tracking import thread
from rlalign.log.tracking.protocol import TRACKERS
from rlalign.log.tracking.thread import TrackerThread
from rlalign.storage.jsonl import read_metrics


def open_tracker(folder, **settings):
    return Tracker(folder, TrainConfig(tracking=TrackingConfig(**settings)))


def test_lines_are_json_and_nan_is_null(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(1, {"a": math.nan, "b": math.inf, "c": 1.5}, [{"prompt": "é", "reward": math.nan}])
    tracker.close()
    assert read_metrics(tmp_path) == [{"step": 1, "a": None, "b": None, "c": 1.5}]
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "prompt": "é", "reward": None}


def test_a_resumed_run_writes_each_line_once(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(1, {"a": 1.0})
    state = tracker.state_dict()
    tracker.log(2, {"a": 2.0})  # after the checkpoint, so the resumed run writes it again
    tracker.close()
    resumed = Tracker(tmp_path, TrainConfig(), state)
    resumed.log(2, {"a": 2.0})
    resumed.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]


class Faulty:
    """A tracker that fails at one of its methods, or never returns from it."""

    fault = ""
    never = threading.Event()

    def _at(self, method):
        if self.fault == f"{method} hangs":
            self.never.wait()
        if self.fault == f"{method} exits":
            raise SystemExit(3)
        if self.fault == f"{method} raises":
            raise OSError("unreachable")

    def open(self, folder, config):
        self._at("open")

    def scalars(self, step, values):
        if step == 25:  # dies midway
            self._at("scalars")

    def samples(self, step, rows):
        self._at("samples")

    def card(self, text):
        self._at("card")

    def close(self):
        self._at("close")


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(thread, "CLOSE_TIMEOUT", 0.2)
    monkeypatch.setitem(TRACKERS._items, "faulty", Faulty)
    return lambda fault: monkeypatch.setattr(Faulty, "fault", fault)


METHODS = ("open", "scalars", "samples", "card", "close")


@pytest.mark.parametrize("fault", [f"{m} {kind}" for m in METHODS for kind in ("raises", "hangs", "exits")])
def test_a_broken_tracker_does_not_stop_the_run(tmp_path, faulty, fault):
    faulty(fault)
    stopped = {"hangs": "did not finish in 0.2 s", "raises": "stopped (OSError: unreachable)", "exits": "stopped (Syst"}

    def track():
        tracker = open_tracker(tmp_path, trackers=("faulty",))
        for step in range(1, 51):
            tracker.log(step, {"a": 1.0}, [{"prompt": "p", "completion": "c", "reward": 0.0}])
        tracker.finish("# card", {})
        tracker.close()

    with pytest.warns(UserWarning, match="metrics.jsonl stays complete") as warnings:
        track()
    (message,) = [str(w.message) for w in warnings if "stays complete" in str(w.message)]
    assert message.startswith(f"faulty {stopped[fault.split()[1]]}")
    assert len(read_metrics(tmp_path)) == 50


def test_a_tracker_that_is_too_slow_warns_once(tmp_path, monkeypatch, faulty):
    small = queue.Queue(1)
    monkeypatch.setattr(queue, "Queue", lambda maxsize: small)
    faulty("open hangs")

    def track():
        slow = TrackerThread("wandb", Faulty, tmp_path, {})
        for step in range(9):
            slow.put("scalars", step, {})
        slow.close()

    with pytest.warns(UserWarning, match="wandb is too slow and loses lines") as warnings:
        track()
    assert len(warnings) == 1

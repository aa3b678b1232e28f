"""Trackers: the files are complete even if wandb or tensorboard is slow or broken."""

import json
import math
import queue
import threading

import pytest

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.log import trackers
from rlalign.log.trackers import Tracker
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


@pytest.mark.parametrize("fault", ["raises at once", "raises later", "hangs"])
def test_a_broken_tracker_does_not_stop_the_run(tmp_path, monkeypatch, fault):
    never = threading.Event()

    def broken(folder, config, settings):
        if fault == "raises at once":
            raise OSError("unreachable")

        def log(step, metrics):
            if fault == "raises later":
                raise OSError("gone")
            never.wait()

        return log, lambda: None

    monkeypatch.setattr(trackers, "_wandb", broken)
    monkeypatch.setattr(trackers, "_CLOSE_TIMEOUT", 0.1)
    message = "wandb did not finish in 0.1 s" if fault == "hangs" else "wandb stopped"

    def track():
        tracker = open_tracker(tmp_path, wandb="online")
        for step in range(50):
            tracker.log(step, {"a": 1.0})
        tracker.close()

    with pytest.warns(UserWarning, match=message):
        track()
    assert len(read_metrics(tmp_path)) == 50


def test_a_tracker_that_is_too_slow_warns_once(monkeypatch):
    small = queue.Queue(1)
    monkeypatch.setattr(queue, "Queue", lambda maxsize: small)
    never = threading.Event()

    def track():
        thread = trackers._TrackerThread("wandb", lambda: (lambda *line: never.wait(), lambda: None))
        for step in range(9):
            thread.put(step, {})
        thread.close()

    with pytest.warns(UserWarning, match="wandb is too slow and loses lines") as warnings:
        track()
    assert len(warnings) == 1


def test_tensorboard_writes_an_event_file(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = open_tracker(tmp_path, tensorboard=True)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_wandb_offline_writes_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = open_tracker(tmp_path, wandb="offline")
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*"))

"""metrics.jsonl is complete whatever the trackers do."""

import json
import math
import queue
import threading

import pytest

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.log import trackers as tracking
from rlalign.log.trackers import Tracker, read_metrics


def open_tracker(folder, **settings):
    return Tracker(folder, TrainConfig(tracking=TrackingConfig(**settings)))


def test_lines_are_json_and_nan_is_null(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(1, {"a": math.nan, "b": math.inf, "c": 1.5}, [{"prompt": "é", "reward": math.nan}])
    tracker.close()
    assert read_metrics(tmp_path) == [{"step": 1, "a": None, "b": None, "c": 1.5}]
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "prompt": "é", "reward": None}


def test_a_resumed_run_writes_no_line_twice(tmp_path):
    tracker = open_tracker(tmp_path)
    tracker.log(1, {"a": 1.0})
    state = tracker.state_dict()
    tracker.log(2, {"a": 2.0})  # after the checkpoint: written again by the resumed run
    tracker.close()
    resumed = Tracker(tmp_path, TrainConfig(), state)
    resumed.log(2, {"a": 2.0})
    resumed.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "a"')
    assert read_metrics(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("fault", ["raises at once", "raises later", "hangs"])
def test_a_broken_tracker_stops_nothing(tmp_path, monkeypatch, fault):
    never = threading.Event()

    def broken(folder, config, settings):
        if fault == "raises at once":
            raise OSError("unreachable")

        def log(step, metrics):
            if fault == "raises later":
                raise OSError("gone")
            never.wait()

        return log, lambda: None

    monkeypatch.setattr(tracking, "_wandb", broken)
    monkeypatch.setattr(tracking, "_PATIENCE", 0.1)
    said = "wandb did not finish in 0.1 s" if fault == "hangs" else "wandb stopped"

    def track():
        tracker = open_tracker(tmp_path, wandb="online")
        for step in range(50):
            tracker.log(step, {"a": 1.0})
        tracker.close()

    with pytest.warns(UserWarning, match=said):
        track()
    assert len(read_metrics(tmp_path)) == 50


def test_a_tracker_that_is_too_slow_is_said_to_lose_lines_once(monkeypatch):
    small = queue.Queue(1)
    monkeypatch.setattr(queue, "Queue", lambda maxsize: small)
    never = threading.Event()

    def track():
        mirror = tracking._Mirror("wandb", lambda: (lambda *line: never.wait(), lambda: None))
        for step in range(9):
            mirror.put(step, {})
        mirror.close()

    with pytest.warns(UserWarning, match="wandb is too slow and loses lines") as said:
        track()
    assert len(said) == 1


def test_tensorboard_gets_the_scalars(tmp_path):
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

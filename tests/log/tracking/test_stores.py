"""wandb, TensorBoard and MLflow, each written by a log and read back by its own reader."""

import base64
import json
import math

import pytest

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.config.serialize import update
from rlalign.log import trackers
from rlalign.log.trackers import Tracker
from rlalign.log.tracking import thread

CARD = "---\ntags:\n- rlalign\n---\n\n# card\n"
SAMPLE = {"prompt": "[a](http://b)", "completion": "<i>|`x`", "reward": 0.5}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """A package that takes long to import on a busy machine must not fail a test."""
    monkeypatch.setattr(thread, "CLOSE_TIMEOUT", 300.0)


def write(folder, **tracking):
    """Log two steps and the results of a run."""
    config = update(TrainConfig(steps=2), {f"tracking.{name}": value for name, value in tracking.items()})
    plot = folder / "reward.png"
    plot.write_bytes(PIXEL)
    tracker = Tracker(folder, config)
    tracker.log(1, {"reward/mean": 0.25, "reward/bleu[answer=a/b]": 1.0, "eval/kl": math.nan}, [SAMPLE])
    tracker.log(2, {"reward/mean": 0.5})
    tracker.finish(CARD, {"reward": plot})
    tracker.close()


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self, given):
        self.given = given

    def open(self, folder, config):
        self.given.append(json.dumps(config))

    def scalars(self, step, values):
        self.given.append(json.dumps(values))

    def samples(self, step, rows):
        self.given.append(json.dumps(rows))


def test_trackers_get_no_place_and_no_secret(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(trackers, "build_tracker", lambda spec: Kept(given))
    changes = {
        "env": "sort=0.5,/home/user/secretdir/b.jsonl=0.5",
        "output": "/home/user/secretdir/run",
        "teacher": "https://user:sk-secret@host/v1?model=m",
        "rewards": ["http://bob:secretpw@host:9/score", "words?words=/home/user/secretdir/w.txt"],
        "tracking.trackers": ["/home/user/secretdir/mine.py:Mine"],
        "tracking.project": "/Users/shared/project",  # of an MLflow server
    }
    tracker = Tracker(tmp_path, update(TrainConfig(), changes))
    keys = [f"reward/words[words=/home/user/secretdir/{name}/w.txt]" for name in ("a", "b")]
    tracker.log(1, dict.fromkeys(keys, 0.5), [{**SAMPLE, keys[0]: 0.5}])
    tracker.close()
    text = "".join(given)
    assert len(given) == 3
    for part in ("/home", "secret", "bob"):
        assert part not in text
    for part in ("sort=0.5,b.jsonl=0.5", "/Users/shared/project", "words[words=w.txt]-2"):
        assert part in text
    assert keys[0] in (tmp_path / "metrics.jsonl").read_text()  # the record of this machine is complete


@pytest.mark.filterwarnings("error:.*stays complete")
def test_tensorboard_reads_back_scalars_texts_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5)]
    assert events.Tags()["images"] == ["picture/reward"]

    def text(name):
        (event,) = events.Tensors(f"{name}/text_summary")
        return event.tensor_proto.string_val[0].decode()

    assert '"steps": 2' in text("config")
    assert text("card").strip() == "# card"
    # TensorBoard renders Markdown: the texts of a model are code there
    assert "`[a](http://b)`" in text("samples")
    assert "`` <i>\\|`x` ``" in text("samples")


@pytest.mark.filterwarnings("error:.*stays complete")
def test_mlflow_reads_back_metrics_parameters_and_artifacts(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # restored after the test
    write(tmp_path, mlflow=True, project="a project")
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("a project")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == tmp_path.name
    history = client.get_metric_history(run.info.run_id, "reward/mean")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]
    assert run.data.metrics["reward/bleu_answer_a/b_"] == 1.0
    assert "eval/kl" not in run.data.metrics  # NaN
    assert run.data.params["steps"] == "2"
    assert run.data.params["learner.lr"] == "0.001"
    folder = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    table = json.loads((tmp_path / "samples" / "step-1.json").read_text())
    assert folder
    assert table == {"columns": list(SAMPLE), "data": [list(SAMPLE.values())]}
    assert (tmp_path / "README.md").read_text() == CARD
    assert (tmp_path / "pictures" / "reward.png").read_bytes() == PIXEL


def records_of(path):
    """Yield the records of a .wandb file, a LevelDB log: blocks of 32 KiB, entries with checksum, length, type."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""  # behind the head of the file, which is a part of the first block
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block has no room for a head
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.filterwarnings("error:.*stays complete")
def test_wandb_offline_reads_back_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    write(tmp_path, wandb="offline", project="a-project")
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    records = list(records_of(next(folder.glob("run-*.wandb"))))
    assert next(r.run.project for r in records if r.WhichOneof("record_type") == "run") == "a-project"
    # it holds the command line, the user and the host
    assert all(r.WhichOneof("record_type") != "environment" for r in records)
    history = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    rows = [{item.key or "/".join(item.nested_key): item.value_json for item in h.item} for h in history]
    logged = [(row["_step"], row["reward/mean"]) for row in rows if "reward/mean" in row]
    assert logged == [("1", "0.25"), ("2", "0.5")]
    (table,) = folder.glob("files/media/table/samples*.json")
    stored = json.loads(table.read_text())
    assert stored == {**stored, "columns": ["step", *SAMPLE], "data": [[1, *SAMPLE.values()]]}
    (picture,) = folder.glob("files/media/images/picture/reward*.png")
    assert picture.read_bytes() == PIXEL
    assert any(r.WhichOneof("record_type") == "exit" for r in records)  # the run was finished


def test_a_tracker_selected_by_name_equals_its_switch(tmp_path):
    assert TrackingConfig(trackers=("tensorboard",)) != TrackingConfig(tensorboard=True)
    pytest.importorskip("tensorboard")
    write(tmp_path, trackers=["tensorboard"])
    assert list((tmp_path / "tensorboard").glob("events.*"))

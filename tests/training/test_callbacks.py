"""Callbacks and metrics in runs: order, state and resume, read-only views, the end of a run, failures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rlalign
from rlalign import cli
from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, from_json, to_json, update
from rlalign.errors import HookError, UserError
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.training.callbacks import Callbacks, load_callbacks
from rlalign.training.experiment import train_run
from tests.faults.test_resume import assert_same_run, stop_after

SMALL = {"steps": 4, "rollout.prompts": 4, "rollout.group_size": 4, "evaluation.prompts": 4, "model.hidden_size": 16}


def config(folder: Path, **changes: Any) -> TrainConfig:
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config("rlalign/Reverse-v0", "gru", "rloo"), SMALL)
    return update(base, {"output": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}})


def outcome(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Return the weights of the newest checkpoint, and the metrics without the times."""
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(folder)]
    return state["policy"], rows


def assert_same_training(a: Path, b: Path) -> None:
    """Compare weights and metrics exactly; the states of their callbacks may differ."""
    (weights_a, rows_a), (weights_b, rows_b) = outcome(a), outcome(b)
    assert rows_a == rows_b
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)


class Recorder:
    """Writes down every call, under a name."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name = name
        self.calls = calls

    def on_rollout(self, rollout: Any) -> None:
        self.calls.append((self.name, "rollout", rollout.step))

    def on_step(self, state: Any, metrics: Any) -> None:
        self.calls.append((self.name, "step", state.step))

    def on_evaluation(self, results: Any) -> None:
        self.calls.append((self.name, "evaluation", results.step))

    def should_stop(self) -> bool:
        self.calls.append((self.name, "stop", None))
        return False


def test_calls_are_in_the_order_of_the_run_and_of_the_callbacks(tmp_path: Path) -> None:
    calls: list[Any] = []
    callbacks = [Recorder("a", calls), Recorder("b", calls)]
    train_run(config(tmp_path / "r", steps=2, evaluation__every=2), callbacks=callbacks, quiet=True)
    expected: list[Any] = [("evaluation", 0)]
    for step in (1, 2):
        expected += [("rollout", step), *([("evaluation", 2)] if step == 2 else []), ("step", step), ("stop", None)]
    expected.append(("evaluation", 2))  # after training
    assert calls == [(name, *call) for call in expected for name in "ab"]


class Vandal:
    """Changes everything that it gets, as far as that can be changed."""

    def on_rollout(self, rollout: Any) -> None:
        for name, value in vars(rollout).items():
            if isinstance(value, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    value[...] = 0
                _corrupted(value)
            elif isinstance(value, list):
                value[:] = ["x"] * len(value) if name in ("prompts", "completions") else [{} for _ in value]
        rollout.columns.clear()

    def on_step(self, state: Any, metrics: Any) -> None:
        for weights in state.weights().values():
            weights.zero_()
        metrics.clear()

    def on_evaluation(self, results: Any) -> None:
        results.samples.completions.clear()
        results.metrics.clear()


def _corrupted(array: Any) -> None:
    """Write zeros through a tensor on the memory of a read-only array."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array).zero_()


def test_a_callback_that_writes_into_all_it_gets_changes_nothing(tmp_path: Path) -> None:
    """Arrays refuse writes; a torch tensor on the same memory does not, and must not reach training either."""
    changes = {"algorithm": "ppo", "learner.epochs": 2, "evaluation.every": 2}
    for name, callbacks in (("plain", None), ("vandal", [Vandal()])):
        settings = update(default_config("rlalign/Reverse-v0", "gru", "ppo"), SMALL | changes)
        train_run(update(settings, {"output": str(tmp_path / name)}), callbacks=callbacks, quiet=True)
    assert_same_training(tmp_path / "plain", tmp_path / "vandal")


class Counter:
    """Counts rollouts, steps and evaluations, and ends the run at a count that its state must bring back."""

    def __init__(self, last: int = 99) -> None:
        self.last = last
        self.counts = {"rollouts": 0, "steps": 0, "evaluations": 0}
        self.mean = np.zeros(2)

    def on_rollout(self, rollout: Any) -> None:
        self.counts["rollouts"] += 1
        self.mean += rollout.rewards[:2]

    def on_step(self, state: Any, metrics: Any) -> None:
        self.counts["steps"] += 1

    def on_evaluation(self, results: Any) -> None:
        self.counts["evaluations"] += 1

    def should_stop(self) -> bool:
        return self.counts["steps"] >= self.last

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "mean": self.mean}

    def load_state_dict(self, state: Any) -> None:
        self.counts = dict(state["counts"])
        self.mean = np.asarray(state["mean"])


@pytest.mark.parametrize("updates", [1, 6])  # before the first step ends; between two updates of a rollout
def test_a_stopped_and_resumed_run_is_bitwise_equal_with_the_state_of_its_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    changes = {"evaluation__every": 1, "learner__epochs": 2, "objective__ratio": "token", "metrics": ["lengths"]}

    def lengths(samples: Any) -> Any:
        return samples.lengths

    def run(name: str, **more: Any) -> Counter:
        counter = Counter(last=5)
        settings = config(tmp_path / name, steps=8, **{**changes, "metrics": ["object:lengths"]}, **more)
        train_run(settings, callbacks=[counter], metrics=[lengths], quiet=True)
        return counter

    complete = run("complete")
    with monkeypatch.context() as patch:
        stop_after(patch, updates)
        run("cut")
    resumed = run("cut", resume=True)
    assert resumed.counts == complete.counts == {"rollouts": 5, "steps": 5, "evaluations": 7}
    assert np.array_equal(resumed.mean, complete.mean)
    assert_same_run(tmp_path / "complete", tmp_path / "cut")
    assert read_metrics(tmp_path / "cut")[-1]["train/stop_callback"] == 1.0
    assert "metric/lengths" in read_metrics(tmp_path / "cut")[0]
    assert "eval/metric/lengths" in read_metrics(tmp_path / "cut")[0]


def test_a_run_that_a_callback_ended_is_finished_and_says_by_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlalign.compare.records.run_records import finished

    run = train_run(config(tmp_path / "r"), callbacks=[Counter(last=2)])
    assert run.metrics["step"] == [1, 2]
    assert run.comparison is not None
    assert "ended at step 2: callback 'Counter' asked for it" in capsys.readouterr().out
    assert finished(tmp_path / "r")


def test_every_callback_is_asked_also_after_one_has_answered() -> None:
    calls: list[Any] = []
    callbacks = Callbacks(load_callbacks([Counter(last=0), Recorder("b", calls)]))
    assert callbacks.ask_to_stop()
    assert calls == [("b", "stop", None)]
    assert callbacks.stopped_by == "Counter"


@pytest.mark.parametrize("event", ["on_rollout", "on_step", "on_evaluation", "should_stop", "state_dict"])
def test_a_failing_callback_ends_the_run_by_name_and_the_repaired_one_continues(tmp_path: Path, event: str) -> None:
    class Broken(Counter):
        pass

    calls = 0

    def fails(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ValueError("no disk")
        return getattr(Counter, event)(self, *arguments)

    setattr(Broken, event, fails)
    settings = {"evaluation__every": 1, "callbacks": ["object:Broken"]}
    train_run(config(tmp_path / "complete", **settings), callbacks=[Counter()], quiet=True)
    with pytest.raises(HookError, match=rf"callback 'Broken': {event} raised ValueError: no disk"):
        train_run(config(tmp_path / "cut", **settings), callbacks=[Broken()], quiet=True)
    Broken.__name__ = "Broken"
    setattr(Broken, event, getattr(Counter, event))
    train_run(config(tmp_path / "cut", resume=True, **settings), callbacks=[Broken()], quiet=True)
    assert_same_training(tmp_path / "complete", tmp_path / "cut")
    assert "no disk" in (tmp_path / "cut" / "faults" / "traceback.txt").read_text()


FILES = """
class Stop:
    def __init__(self):
        self.steps = 0
    def on_step(self, state, metrics):
        self.steps += 1
    def should_stop(self):
        return self.steps >= 2
    def state_dict(self):
        return {"steps": self.steps}
    def load_state_dict(self, state):
        self.steps = state["steps"]

def letters(samples):
    return [len(text) for text in samples.completions]

def doubled(advantages, batch):
    return 2 * advantages

class Needs:
    def __init__(self, threshold): ...
    def should_stop(self): ...

class Misspelled:
    def onstep(self, state, metrics): pass

class Empty: ...
"""
FLAGS = ["--env", "reverse", "--policy", "gru", "--steps", "4", "--rollout.prompts", "2", "--rollout.group-size", "2"]


def test_hooks_of_files_on_the_command_line_and_their_code_in_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hooked.py").write_text(FILES)
    flags = [*FLAGS, "--evaluation.prompts", "2", "--callback", "hooked.py:Stop", "--metric", "hooked.py:letters"]
    assert cli.main(["train", *flags, "--advantage", "hooked.py:doubled", "--output", "r"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "advantage hooked.py:doubled: expected update unbiased, exact × 2" in output
    run = rlalign.Run("r")
    assert run.config.callbacks == ("hooked.py:Stop",)
    assert run.config.metrics == ("hooked.py:letters",)
    assert run.config.objective.advantage == "hooked.py:doubled"
    assert len(run.metrics["metric/letters"]) == 2
    assert "metric/letters" in json.loads(Path("r/report/evaluation.json").read_text())["metrics"]
    assert json.loads(Path("r/report/advantage.json").read_text())["verdict"] == "exact × 2"
    manifest = checkpoint.read_manifest(checkpoint.latest(Path("r/checkpoints")))
    roles = {role for role in manifest["identity"] if role.endswith("hooked.py")}
    assert roles == {"callback hooked.py", "metric hooked.py", "objective.advantage hooked.py"}
    assert "metric/letters" in run.evaluate(prompts=2).differences
    Path("hooked.py").write_text(FILES.replace("2 * adv", "3 * adv"))
    assert cli.main(["train", "--resume", "r", "--steps", "6"]) == 2
    assert "objective.advantage hooked.py" in capsys.readouterr().err
    (tmp_path / "r" / "run.mark").unlink()  # a folder of somebody else: its code is named before it runs
    (tmp_path / "r").chmod(0o777)
    assert cli.main(["train", "--resume", "r", "--allow-change", "--steps", "6"]) == 2
    message = capsys.readouterr().err
    assert "callback hooked.py:Stop" in message
    assert "use --trust-run" in message


def test_unusable_callbacks_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "callbacks_of_user.py"
    path.write_text(FILES)
    for spec, message in (
        (f"{path}:Needs", "cannot be built without arguments"),
        (f"{path}:Empty", "expected an object with one of on_rollout"),
        (f"{path}:Misspelled", r"with the method 'onstep' \(did you mean 'on_step'"),
        (f"{path}:Stopp", "Did you mean 'Stop'"),
        (SimpleNamespace(on_setp=print, should_stop=bool), "unknown method 'on_setp'. Did you mean 'on_step'"),
        ("Stop", "expected file.py:Class"),
        (Counter, "expected an object with one of"),  # the class in place of an object
        ("object:Counter", "was passed as a Python object"),
    ):
        with pytest.raises(UserError, match=message):
            load_callbacks([spec])
    assert list(load_callbacks([Counter(), Counter()])) == ["Counter", "Counter #2"]


@pytest.mark.parametrize("algorithm", ["trl:grpo", "best_of_n"])
def test_trainers_without_hooks_refuse_them(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(UserError, match=rf"callbacks: {algorithm} never calls it"):
        rlalign.train("reverse", "tiny", algorithm, callbacks=[Counter()], output=tmp_path / "r", quiet=True)


def test_objects_from_python_are_not_rebuilt_by_name(tmp_path: Path) -> None:
    def flat(advantages: Any, batch: Any) -> Any:
        return 0.5 * advantages

    small = {key.replace(".", "__"): value for key, value in SMALL.items()} | {"steps": 1, "quiet": True}
    run = rlalign.train(
        "reverse", "gru", advantage=flat, callbacks=[Counter()], metrics=[len], output=tmp_path / "r", **small
    )
    assert run.config.objective.advantage == "object:flat"
    assert run.config.callbacks == ("object:Counter",)
    with pytest.raises(UserError, match="'object:Counter' was passed as a Python object"):
        rlalign.train(config=run.config, resume=True, steps=2, quiet=True)
    from rlalign.objective.registries import ADVANTAGES

    ADVANTAGES._items.pop("object:flat")  # another process
    with pytest.raises(UserError, match=r"'object:flat' was passed as a Python object .* pass advantage="):
        rlalign.train(config=run.config, callbacks=[Counter()], metrics=[len], resume=True, steps=2, quiet=True)


def test_configurations_without_hooks_keep_their_fingerprint_and_read_without_them() -> None:
    stored = to_json(TrainConfig())
    del stored["callbacks"], stored["metrics"], stored["objective"]["advantage"]
    for key in ("mlflow", "trackers", "push"):
        del stored["tracking"][key]
    assert from_json(stored) == TrainConfig()
    changed = update(TrainConfig(), {"tracking.trackers": ["a.py:T"], "tracking.push": "a/b"})
    assert fingerprint(changed) == fingerprint(TrainConfig())
    assert fingerprint(update(TrainConfig(), {"callbacks": ["a.py:C"]})) != fingerprint(TrainConfig())

"""The end of training at a KL budget: the step, the log, the checkpoint, and runs that cannot measure their KL."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlalign
from rlalign.compare.records.run_records import finished
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import update
from rlalign.config.validate import resolve, validate
from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage.jsonl import read_metrics
from rlalign.training.experiment import train_run
from rlalign.training.kl_budget import KLBudget
from rlalign.training.trainer import Trainer

FAST = {"rollout.prompts": 2, "rollout.group_size": 4, "learner.lr": 3e-2, "evaluation.prompts": 8, "steps": 30}


def config(folder: Path, **changes: Any) -> TrainConfig:
    base = update(default_config("reverse?max_length=3", "gru", "rloo"), FAST)
    return update(base, {"output": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that its budget ended. Tests do not change it."""
    folder = tmp_path_factory.mktemp("kl") / "run"
    return train_run(config(folder, evaluation__every=1, evaluation__stop_kl=0.05), quiet=True)


def test_training_ends_after_the_first_step_above_the_budget(stopped: Run) -> None:
    rows = read_metrics(stopped.folder)
    kls = [row["eval/kl"] for row in rows]
    assert 1 <= len(rows) < 30
    assert kls[-1] > 0.05 >= max(kls[:-1], default=0.0)
    assert [row["train/stop_kl"] for row in rows] == [0.0] * (len(rows) - 1) + [1.0]
    assert stopped.comparison is not None
    assert finished(stopped.folder)


def test_the_end_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_run(config(tmp_path / "a", evaluation__every=1, evaluation__stop_kl=1e-6, steps=3))
    assert "is above evaluation.stop_kl 1e-06" in " ".join(capsys.readouterr().out.split())


def test_a_run_at_its_budget_takes_no_further_step_when_it_is_resumed(stopped: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(stopped.folder, folder)
    before = read_metrics(folder)
    settings = replace(stopped.config, output=str(folder), resume=True)
    train_run(settings, quiet=True)
    assert read_metrics(folder) == before


def trainer(folder: Path, kls: list[float]) -> Trainer:
    """Return a trainer whose validations measure these KLs, in this order."""
    settings = config(folder, evaluation__every=1, evaluation__stop_kl=1.0, steps=6)
    folder.mkdir(exist_ok=True)
    made = Trainer(settings, folder, *build_policy(settings, build_mdp(settings)), quiet=True)
    values = iter(kls)

    class NextEvaluation:
        metrics = ("reward", "kl")
        envs = ()
        report = SimpleNamespace(figures={})

        def __init__(self, tasks: object) -> None:
            self.kl = next(values)

        def mean(self, name: str) -> float:
            return self.kl if name == "kl" else 0.0

    made.validator.evaluate = NextEvaluation  # type: ignore[method-assign, assignment]
    return made


def test_the_budget_survives_a_stop_and_an_undone_step(tmp_path: Path) -> None:
    first = trainer(tmp_path / "a", [0.2, 1.5])
    log = first.state.alarms.update

    def stop_at_two(step: int, metrics: dict[str, float]) -> dict[str, float]:
        if step == 2:
            raise KeyboardInterrupt
        return log(step, metrics)

    first.state.alarms.update = stop_at_two  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert not first.state.kl_budget.should_stop  # step 2 was undone, and its KL with it
    first.close()
    second = trainer(tmp_path / "a", [0.3, 1.0, math.nan, 1.1, 9.0])
    second.resume()
    second.run()
    assert (second.state.step, second.state.kl_budget.step, second.state.kl_budget.kl) == (5, 5, 1.1)
    second.close()
    third = trainer(tmp_path / "a", [0.0])
    third.resume()
    third.run()
    assert (third.state.step, third.state.kl_budget.kl) == (5, 1.1)
    third.close()


def test_without_validations_the_kl_of_the_training_samples_is_read(tmp_path: Path) -> None:
    settings = {"objective__kl__where": "reward", "objective__kl__coef": 1e-3, "evaluation__stop_kl": 0.05}
    run = rlalign.train(config=config(tmp_path / "a", **settings), quiet=True)
    kls = [row["rollout/kl"] for row in read_metrics(run.folder)]
    assert len(kls) < 30
    assert kls[-1] > 0.05 >= max(kls[:-1])


def test_a_budget_without_a_measured_kl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--evaluation\.every"):
        validate(resolve(config(tmp_path, evaluation__stop_kl=1.0)))
    with pytest.raises(UserError, match=r"evaluation\.stop_kl"):
        validate(config(tmp_path, evaluation__stop_kl=-1.0))


def test_no_budget_logs_nothing_and_never_stops() -> None:
    budget = KLBudget(0.0, every=1)
    assert budget.record(1, {"eval/kl": 99.0}) == {}
    assert not budget.should_stop
    assert KLBudget(1.0, every=5).record(1, {"rollout/kl": 9.0}) == {}  # a step without a validation

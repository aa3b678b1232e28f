"""The place in the user's code that a message names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rlalign
import rlalign.objective as rlo
from rlalign.cli import main
from rlalign.errors import HookError, UserError, user_place
from rlalign.log.custom_metrics import CustomMetrics, load_metrics
from rlalign.registry import load
from rlalign.training.callbacks import Callbacks, load_callbacks

CODE = """\
import json


def metric(samples):
    return json.loads("{")


class OnStep:
    def on_step(self, state, metrics):
        return metrics["gone"]


class Init(OnStep):
    def __init__(self):
        self.x = 1 / 0


def advantage(advantages, batch):
    return torch.nothing
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return path


def error_of(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of any class
        function()
    return caught.value


def test_the_innermost_line_of_the_user_is_named_and_none_of_a_library(file: Path) -> None:
    error = error_of(lambda: load(f"{file}:metric")(None))
    assert isinstance(error, json.JSONDecodeError)  # raised in a file of Python
    assert user_place(error) == f" in {file}, line 5"


def test_a_file_below_the_working_directory_is_named_relative_to_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert user_place(error_of(lambda: load(f"{file}:metric")(None))) == " in own.py, line 5"


def test_an_error_without_code_of_the_user_has_no_place() -> None:
    assert user_place(ValueError("never raised")) == ""


def test_a_failing_metric_names_its_line(file: Path) -> None:
    messages: list[str] = []
    metrics = CustomMetrics(load_metrics([f"{file}:metric"]), messages.append)
    metrics.measure(SimpleNamespace(__len__=lambda: 1))  # type: ignore[arg-type]  # it is not read
    assert len(messages) == 1
    assert f" in {file}, line 5; it is left out from here on" in messages[0]


def test_a_failing_callback_names_its_line(file: Path) -> None:
    callbacks = Callbacks(load_callbacks([f"{file}:OnStep"]))
    with pytest.raises(HookError, match=rf"on_step raised KeyError: 'gone' in {file}, line 10"):
        callbacks.on_step(None, {})  # type: ignore[arg-type]  # it is not read
    with pytest.raises(UserError, match=rf"division by zero in {file}, line 15\); give its parameters defaults"):
        load_callbacks([f"{file}:Init"])


def test_a_failing_advantage_names_its_line(file: Path) -> None:
    spec = f"{file}:advantage"
    ended = torch.ones(2, dtype=torch.bool)
    batch = rlo.Batch(
        action_mask=torch.ones(2, 2, dtype=torch.bool),
        rewards=torch.tensor([1.0, 0.0]),
        group_ids=torch.tensor([0, 0]),
        terminated=ended,
        truncated=~ended,
    )
    with pytest.raises(HookError, match=rf"name 'torch' is not defined in {file}, line 19"):
        rlo.compute_advantages(rlo.Objective(advantage=spec), batch)


def test_a_file_that_cannot_be_imported_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = x.gone\n")
    with pytest.raises(UserError, match=rf"has no attribute 'gone' in {path}, line 2; correct the file"):
        load(f"{path}:y")


def test_the_command_prints_one_message_and_no_traceback(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env", "reverse", "--policy", "gru", "--steps", "1", "--evaluation.prompts", "2"]
    words += ["--callback", f"{file}:OnStep", "--model.hidden-size", "16", "--output", str(tmp_path / "r")]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback (most recent call last)" not in error
    for part in (f"in {file}, line 10", "repair the function, then rlalign train --resume"):
        assert part in error
    assert rlalign.Run(tmp_path / "r").config.steps == 1

"""A value that is none of the choices of its flag: one short message with the nearest choice."""

from __future__ import annotations

import pytest

from rlalign.cli import main
from rlalign.cli.train import parse
from rlalign.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.adapter.kind", "loar"],
            "kind: expected one of none, lora, .*; did you mean 'lora'?",
        ),
        (["--model.adapter.kind=LoRA"], "got 'LoRA'; did you mean 'lora'?"),
        (
            ["--learner.lr_schedule", "xyz"],
            "constant, linear, cosine, got 'xyz'; use --learner.lr_schedule constant",
        ),
        (["--as", "pears"], "--recorded.kind: .* did you mean 'pairs'?"),
    ],
)
def test_the_nearest_choice_and_all_choices_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse(["--policy", "gru", *words])


def test_the_command_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--policy", "gru", "--model.base", "nf5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_values_among_the_choices_pass() -> None:
    config = parse(["--policy", "gru", "--learner.lr-schedule", "cosine", "--evaluation.split=test", "--seed", "3"])
    assert (config.learner.lr_schedule, config.evaluation.split, config.seed) == ("cosine", "test", 3)
    assert parse(["--policy", "gru", "--model.adapter.kind", "None"]).model.adapter.kind is None

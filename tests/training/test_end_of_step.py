"""The end of a step: validation and early stopping."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rlalign.config.schema import TrainConfig
from rlalign.training.end_of_step import EndOfStep
from rlalign.training.hooks import Hooks


@pytest.mark.parametrize("patience", [0, 2])
def test_weights_that_may_become_the_best_are_checked_before_their_validation(patience: int) -> None:
    config = TrainConfig()
    calls: list[str] = []
    figures = SimpleNamespace(figures={})
    results = SimpleNamespace(metrics={"reward": np.ones((2, 1))}, mean=lambda _: 1.0, envs=[], report=figures)

    def evaluate(_: object) -> object:
        calls.append("validation")
        return results

    state = SimpleNamespace(
        config=SimpleNamespace(**{**vars(config), "evaluation": SimpleNamespace(patience=patience)}),
        check_weights=lambda _: calls.append("check"),
        early_stopping=SimpleNamespace(record=lambda *_: calls.append("record")),
        policy=None,
        hooks=Hooks(),
    )
    validator = SimpleNamespace(evaluate=evaluate, validation_tasks=[])
    end = EndOfStep(state, validator, None, None, print)  # type: ignore[arg-type]  # parts of them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlalign.training.end_of_step.fingerprint", lambda _: "")
        assert end._validate(3) == {"eval/reward": 1.0}
    assert calls == (["check"] if patience else []) + ["validation", "record"]

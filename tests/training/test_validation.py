"""The held-out tasks of validations and of before and after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlalign.config.schema import TrainConfig
from rlalign.envs.registration import make_mdp
from rlalign.policies.factory import make_policy
from rlalign.training.validation import Validator


@pytest.mark.parametrize(("patience", "split"), [(0, "validation"), (3, "test")])
def test_with_early_stopping_the_final_tasks_are_of_the_test_split(patience: int, split: str) -> None:
    """The validations choose the weights, so their tasks would flatter before and after."""
    config = TrainConfig()
    config = replace(config, evaluation=replace(config.evaluation, patience=patience, prompts=4, every=1))
    mdp = make_mdp("reverse")
    validator = Validator(config, make_policy("gru", tokenizer=mdp.tokenizer), mdp)
    assert {task.split for task in validator.validation_tasks} == {"validation"}
    assert {task.split for task in validator.final_tasks} == {split}

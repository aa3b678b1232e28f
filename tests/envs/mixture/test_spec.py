"""Specs of several environments: weights, schedules, steps, names, and texts that are one environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.unused_settings import cautions
from rlalign.envs.mixture.spec import MixtureSpec, env_specs, short_names
from rlalign.errors import UserError


def weights_at(spec: str, step: int = 0) -> dict[str, float]:
    parsed = MixtureSpec.parse(spec)
    assert parsed is not None
    weights: dict[str, float] = parsed.weights.at(step)
    return weights


def test_environments_have_weights_schedules_or_neither() -> None:
    assert weights_at("sort,reverse") == {"sort": 1.0, "reverse": 1.0}
    assert weights_at("sort=0.7, reverse=0.3") == {"sort": 0.7, "reverse": 0.3}
    schedule = "sort=0.8,reverse=0.2@0:0@100"
    assert weights_at(schedule, 50) == {"sort": 0.8, "reverse": 0.1}
    assert weights_at(schedule, 500) == {"sort": 0.8, "reverse": 0.0}


def test_stages_begin_at_their_step_and_an_environment_may_return() -> None:
    spec = "sort@0,reverse@3,sort@4"
    assert [weights_at(spec, step)["sort"] for step in range(6)] == [1, 1, 1, 0, 1, 1]
    assert [weights_at(spec, step)["reverse"] for step in range(6)] == [0, 0, 0, 1, 0, 0]
    assert env_specs(spec) == ["sort", "reverse"]


def test_arguments_files_and_code_are_environments() -> None:
    parsed = MixtureSpec.parse("sort?max_length=2=0.7,a/sums.csv?prompt=q&max_new=3=0.2,my.py:Own=0.1")
    assert parsed is not None
    assert parsed.envs == {"sort": "sort?max_length=2", "sums": "a/sums.csv?prompt=q&max_new=3", "own": "my.py:Own"}
    assert parsed.weights.at(0) == {"sort": 0.7, "sums": 0.2, "own": 0.1}
    staged = MixtureSpec.parse("sort?max_length=2@0,sort?max_length=4@9")
    assert staged is not None
    assert list(staged.envs) == ["sort[max_length=2]", "sort[max_length=4]"]


@pytest.mark.parametrize(
    "spec", ["sort", "sort?alphabet=a,b", "sums.csv?tokenizer=chars:0,1", 3, None, "sort?max_length=3", "object:a"]
)
def test_one_environment_is_no_mixture(spec: Any) -> None:
    assert MixtureSpec.parse(spec) is None


def test_a_stage_that_no_step_reaches_is_reported() -> None:
    config = default_config("sort@0,reverse@5", "gru", "rloo")
    assert cautions(replace(config, steps=6)) == []
    (sentence,) = cautions(replace(config, steps=5))
    assert "no step of the 5 draws from the environment 'reverse'" in sentence
    assert cautions(replace(config, env="sort=0.5,reverse=0@0:1@3", steps=3)) == []  # a share that rises


def test_names_are_different_and_have_no_slash() -> None:
    names = short_names(["a/x.csv", "b/x.csv", "rlalign/GuessNumber-v0", "x.csv?tokenizer=chars:a/b"])
    assert names == ["x", "x-2", "guess_number", "x[tokenizer=chars-a-b]"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sort=0.7,reverse", "a weight for each environment"),
        ("sort=0.7,reverse@3", "a weight for each environment"),
        ("sort,sort", "one twice"),
        ("sort@1,reverse@3", "increase from 0, got 1, 3"),
        ("sort@0,reverse@0", "increase from 0"),
        ("sort=-1,reverse=1", "weight of environment 'sort': expected a number of at least 0"),
        ("sort=0,reverse=1@0:0@5", "one above 0 at each step, got none at step 5"),
    ],
)
def test_a_mistake_is_named(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixtureSpec.parse(spec)

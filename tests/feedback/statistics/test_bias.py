"""Planted biases are found, and none where none is; speed outliers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from rlalign.feedback.statistics.bias import (
    Test,
    fast_people,
    fast_votes,
    length_bias,
    modified_z,
    position_bias,
    position_bias_of_people,
)
from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN
from rlalign.feedback.statistics.strengths import Refusal
from tests.feedback.statistics.conftest import draw, pairs

Test.__test__ = False  # type: ignore[attr-defined]  # no class of tests


def test_the_share_of_the_left_by_hand() -> None:
    votes = pairs([WIN, LOSS, WIN, TIE, WIN], left=np.array([1, 0, 0, 1, 1], bool))
    found = position_bias(votes)
    assert found is not None
    assert found.estimate.panel.value == pytest.approx(3 / 4)
    assert found.null == 0.5
    assert position_bias(pairs([TIE, TIE])) is None


@pytest.mark.parametrize("people", [3, 12])
def test_planted_biases_are_found(people: int) -> None:
    """The effects are about five times the standard error: a test misses one in 0.1 % of seeds."""
    for seed in range(5):
        position = position_bias(draw(seed, 600, people=people, left=0.5))
        assert position is not None
        assert position.found
        assert position.p < 0.05
        assert position.estimate.main.value > 0.5
        share, effect = length_bias(draw(seed, 600, people=people, length=0.6))
        assert share is not None
        assert share.found
        assert not isinstance(effect, Refusal)
        assert effect.found
        assert effect.estimate.main.low > 0


def test_no_bias_no_claim() -> None:
    """120 studies without bias: a test of 5 % claims more than 14 with probability 0.1 %."""
    claims = np.zeros(2)
    for seed in range(120):
        votes = draw(seed, 100, people=8, prompt_sd=1.0, person_sd=0.6)
        position = position_bias(votes)
        _, effect = length_bias(votes)
        assert position is not None
        assert not isinstance(effect, Refusal)
        claims += position.found, effect.found
    assert stats.binom.sf(14, 120, 0.05) < 0.002
    assert (claims <= 14).all()


def test_a_better_and_longer_policy_is_no_length_bias() -> None:
    """The share of the longer completion is far from one half; its effect beside the strengths is not."""
    votes = draw(1, 800, strengths=(1.5, 0.0))
    noise = np.random.default_rng(0).integers(0, 50, (800, 2))[votes.item]
    votes = dataclasses.replace(votes, length=np.stack([np.full(len(votes), 600), np.full(len(votes), 300)], 1) + noise)
    share, effect = length_bias(votes)
    assert share is not None
    assert share.found
    assert share.estimate.panel.value > 0.7
    assert not isinstance(effect, Refusal)
    assert not effect.found
    refused = length_bias(dataclasses.replace(votes, length=np.full((len(votes), 2), 10)))
    assert refused[0] is None
    assert isinstance(refused[1], Refusal)


def test_people_with_a_side() -> None:
    left = np.tile([True, False], 60)
    outcome = np.where(left, WIN, LOSS)  # person 0 always takes the left
    outcome[60:] = np.where(np.random.default_rng(0).random(60) < 0.5, WIN, LOSS)
    found = position_bias_of_people(pairs(outcome, left=left, person=np.repeat([0, 1], 60)))
    assert found[0][0].value == 1
    assert found[0][1] < 1e-6
    assert found[1][1] > 0.05


def test_speed_outliers() -> None:
    seconds = np.random.default_rng(0).uniform(10, 30, 400)
    seconds[:3] = 0.3
    votes = dataclasses.replace(pairs([WIN] * 400, person=np.arange(400) // 40), seconds=seconds)
    assert np.flatnonzero(fast_votes(votes)).tolist() == [0, 1, 2]
    slow = dataclasses.replace(votes, seconds=np.where(votes.person == 4, 1.0, seconds))
    assert [p for p, (_, fast) in fast_people(slow).items() if fast] == [4]
    assert fast_people(slow)[4][0] == 1.0
    assert modified_z(np.array([1.0, 2.0, 3.0])) == pytest.approx([-0.6745, 0, 0.6745])
    assert (modified_z(np.ones(4)) == 0).all()

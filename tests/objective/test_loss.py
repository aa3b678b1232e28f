"""Policy, likelihood and value losses against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import (
    KL,
    Objective,
    Regularizer,
    Trust,
    Value,
    likelihood_count,
    likelihood_loss,
    policy_loss,
    value_loss,
)


@pytest.mark.parametrize(
    ("aggregation", "total", "count"),
    [("sequence_sum", 9, 4), ("sequence_mean", 4, 4), ("token_global", 9, 9), ("constant", 9, 16)],
)
def test_aggregations_match_hand_computed_numbers(small_batch, aggregation: Any, total: float, count: float) -> None:
    b = replace(small_batch(rewards=torch.ones(4)), advantages=torch.ones(4, 3))
    loss = policy_loss(Objective(aggregation=aggregation), b)
    assert loss.total.item() == total  # log pi = -1 and A = 1
    assert loss.count.item() == count
    weighted = policy_loss(Objective(aggregation=aggregation), replace(b, weights=torch.full((4,), 0.5)))
    assert weighted.total.item() == total / 2
    assert weighted.count.item() == count


def test_entropy_and_likelihood_enter_the_loss(small_batch) -> None:
    b = replace(small_batch(), advantages=torch.zeros(4, 3))
    entropy = Objective(regularizer=Regularizer(entropy_coef=0.1))
    assert policy_loss(entropy, b).total.item() == pytest.approx(-0.07 * 9)
    # rewards above 0.4: rows 0, 2, 3 with 3 + 2 + 3 tokens of log pi = -1, and those tokens are the denominator
    likelihood = Objective(regularizer=Regularizer(nll_coef=0.1, nll_above=0.4))
    loss = likelihood_loss(likelihood, b)
    assert (loss.total.item(), loss.count.item()) == (pytest.approx(0.8), 8)
    assert likelihood_count(likelihood, b).item() == 8
    assert policy_loss(likelihood, b).total.item() == 0.0


def test_a_reward_at_the_bound_is_not_positive(small_batch) -> None:
    b = replace(small_batch(), advantages=torch.zeros(4, 3))
    at_the_bound = Objective(regularizer=Regularizer(nll_coef=0.1, nll_above=0.5))  # rewards 1, 0, 0.5, 0.5
    assert likelihood_count(at_the_bound, b).item() == 3


def test_the_kl_is_measured_per_completion_and_k3_per_token(small_batch) -> None:
    metrics = policy_loss(Objective(), replace(small_batch(), advantages=torch.zeros(4, 3))).metrics
    total, count = metrics["kl"]
    assert (total.item(), count.item()) == (4.5, 4)
    total, count = metrics["kl_k3"]
    assert (total.item(), count.item()) == (pytest.approx(9 * (torch.e**-0.5 - 1 + 0.5), rel=1e-5), 9)


def test_k3_is_clamped_and_counted(small_batch) -> None:
    b = replace(small_batch(ref_logprobs=torch.full((4, 3), 200.0)), advantages=torch.zeros(4, 3))
    loss = policy_loss(Objective(kl=KL("loss", 1.0, "k3")), b)
    assert loss.total.item() == pytest.approx(9 * (math.exp(20) - 21), rel=1e-6)  # k3 of 20 nats, for nine tokens
    total, count = loss.metrics["kl_clamped"]
    assert (total, count) == (9, 9)


def test_maxima_are_separate_from_means(small_batch) -> None:
    old = torch.tensor([-1.0, -2.0, -1.0]).expand(4, 3)
    b = replace(small_batch(), advantages=torch.ones(4, 3), old_logprobs=old)
    loss = policy_loss(Objective(ratio="token", trust=Trust("clip")), b)
    assert loss.maxima["ratio_max"].item() == pytest.approx(2.718282, rel=1e-6)
    clipped, tokens = loss.metrics["clip_fraction"]
    assert (clipped, tokens) == (3, 9)


def test_a_ratio_without_old_logprobs_raises(small_batch) -> None:
    b = replace(small_batch(), advantages=torch.ones(4, 3), old_logprobs=None)
    with pytest.raises(UserError, match="old_logprobs"):
        policy_loss(Objective(ratio="token"), b)


def test_value_clip_keeps_the_larger_error(small_batch) -> None:
    b = replace(
        small_batch(),
        values=torch.full((4, 3), 1.0),
        old_values=torch.zeros(4, 3),
        returns=torch.full((4, 3), 1.0),
    )
    clipped = value_loss(Objective(value=Value("head", coef=1.0, clip=0.2)), b)
    assert (clipped.total / clipped.count).item() == pytest.approx(0.5 * 0.8**2)
    assert value_loss(Objective(value=Value("head", coef=1.0)), b).total.item() == 0

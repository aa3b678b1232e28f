"""Losses on recorded data, on an enumerated world: exact gradients by an independent formula, and the stated optima.

The world is an enumerable token MDP whose tabular policy can be any distribution over its completions. The data are
every pair (or labeled completion), each with its probability as sample weight, so that the loss is its exact
expectation. The formula is written in numpy from the score function of the softmax table, without autograd.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlalign.algorithms import algorithm
from rlalign.errors import UserError
from rlalign.objective import KL, Batch, Objective, Preference, compute_advantages, policy_loss
from rlalign.oracle import TokenMDP, compare, report

Array = NDArray[np.float64]

MDP = TokenMDP(horizon=2)
M = len(MDP.completions)
LENGTHS = MDP.mask.sum(1).double().numpy()
LOGITS, REFERENCE = MDP.table(1), MDP.table(2)
MU = MDP.probabilities(MDP.table(3)).numpy()  # the distribution that completions of the data are drawn from
REWARD = 2 * MDP.rewards.numpy()
BETA = 0.7
RANDOM = np.random.default_rng(0)

BRADLEY_TERRY = 1 / (1 + np.exp(REWARD[None, :] - REWARD[:, None]))
"""P(row preferred to column) under Bradley-Terry with the rewards of the MDP."""


def intransitive() -> Array:
    """Return random preferences that no reward explains: P(y preferred to y') + P(y' preferred to y) = 1."""
    upper = np.triu(RANDOM.uniform(0.05, 0.95, (M, M)), 1)
    return upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(M)


INTRANSITIVE = intransitive()


def objective(loss: str, **settings: Any) -> Objective:
    """Return the objective of a preference loss, with beta."""
    return Objective(loss=loss, kl=KL() if loss == "simpo" else KL("reward", BETA), preference=Preference(**settings))


# ---- the data, with their probabilities ----


def pairs(preferences: Array) -> tuple[list[tuple[int, int]], Array]:
    """Return every (chosen, rejected) of two different completions from MU, and its probability."""
    index = [(w, k) for w, k in itertools.product(range(M), repeat=2) if w != k]
    p = np.array([2 * MU[w] * MU[k] * preferences[w, k] for w, k in index])
    return index, p / p.sum()


def loss_of(o: Objective, table: Tensor, batch: Batch, probabilities: Array) -> Tensor:
    """Return the expected loss of rows that have these probabilities as weights."""
    n = len(batch.rewards) if not o.needs_pairs else len(batch.rewards) // 2
    weights = torch.tensor(np.repeat(n * probabilities, 2 if o.needs_pairs else 1))
    batch = compute_advantages(o, replace(batch, weights=weights))
    loss = policy_loss(o, batch, measure=False)
    return loss.total / loss.count


def select(table: Tensor, rows: list[int], rewards: list[float], groups: list[int]) -> Batch:
    """Return completions of the MDP as a batch of recorded data, with gradient to the table."""
    b = MDP.batch(table, reference=REFERENCE)[torch.tensor(rows)]
    return replace(
        b,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        group_ids=torch.tensor(groups),
        old_logprobs=None,
        sampler_logprobs=None,
    )


def pair_loss(o: Objective, table: Tensor, preferences: Array) -> Tensor:
    """Return the expected loss over pairs."""
    index, p = pairs(preferences)
    rows = [row for pair in index for row in pair]
    groups = [i for i in range(len(index)) for _ in range(2)]
    return loss_of(o, table, select(table, rows, [1.0, 0.0] * len(index), groups), p)


def label_loss(o: Objective, table: Tensor, desirable: Array, z0: float) -> Tensor:
    """Return the expected loss over labeled completions from MU, y desirable with probability desirable[y]."""
    rows = list(range(M)) * 2
    b = select(table, rows, [1.0] * M + [0.0] * M, list(range(2 * M)))
    b = replace(b, reference_point=torch.full((2 * M,), z0, dtype=torch.float64))
    return loss_of(o, table, b, np.concatenate([MU * desirable, MU * (1 - desirable)]))


def gradient(loss: Any, table: Tensor) -> Tensor:
    leaf = table.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


# ---- the independent formula ----


def scores(table: Tensor) -> tuple[Array, Array]:
    """Return log pi of each completion, [M], and its gradient to the table, [M, prefixes, V]."""
    logits = table.numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    log_p, score = np.zeros(M), np.zeros((M, *logits.shape))
    for i, completion in enumerate(MDP.completions):
        for t, token in enumerate(completion):
            prefix = MDP.prefixes.index(completion[:t])
            log_p[i] += np.log(p[prefix, token])
            score[i, prefix] -= p[prefix]
            score[i, prefix, token] += 1
    return log_p, score


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def pair_gradient(o: Objective, table: Tensor, preferences: Array) -> Array:
    """Return the expected gradient of a loss of pairs: Σ P(pair) · L'(margin) · (gradient of the margin)."""
    log_p, score = scores(table)
    h = log_p - scores(REFERENCE)[0]
    p = o.preference
    total = np.zeros_like(score[0])
    for (w, k), probability in zip(*pairs(preferences), strict=True):
        if o.loss == "dpo":
            x, dx = BETA * (h[w] - h[k]), BETA * (score[w] - score[k])
        elif o.loss == "simpo":
            x = p.scale * (log_p[w] / LENGTHS[w] - log_p[k] / LENGTHS[k]) - p.margin
            dx = p.scale * (score[w] / LENGTHS[w] - score[k] / LENGTHS[k])
        else:
            lengths = LENGTHS if p.length_normalized else np.ones(M)
            x = h[w] / lengths[w] - h[k] / lengths[k]
            dx = score[w] / lengths[w] - score[k] / lengths[k]
        if o.loss == "ipo":
            slope = 2 * (x - 1 / (2 * BETA))
        else:
            slope = -(1 - p.label_smoothing) * sigmoid(-x) + p.label_smoothing * sigmoid(x)
        total += probability * slope * dx
    return total


def assert_equal(ours: Tensor, formula: Array) -> None:
    assert np.abs(formula).max() > 1e-3
    assert np.abs(ours.numpy() - formula).max() < 1e-10 * np.abs(formula).max()


@pytest.mark.parametrize("preferences", [BRADLEY_TERRY, INTRANSITIVE], ids=["Bradley-Terry", "intransitive"])
@pytest.mark.parametrize(
    "o",
    [
        objective("dpo"),
        objective("dpo", label_smoothing=0.2),
        objective("ipo"),
        objective("ipo", length_normalized=False),
        objective("simpo"),
        objective("simpo", scale=3.0, margin=0.5, label_smoothing=0.1),
    ],
    ids=["dpo", "conservative dpo", "ipo", "ipo with sums", "simpo", "conservative simpo"],
)
def test_the_gradient_of_pairs_equals_the_formula(o: Objective, preferences: Array) -> None:
    ours = gradient(lambda table: pair_loss(o, table, preferences), LOGITS)
    assert_equal(ours, pair_gradient(o, LOGITS, preferences))


def test_the_gradient_of_kto_equals_the_formula_and_has_the_stated_direction() -> None:
    o = objective("kto", desirable_weight=1.5, undesirable_weight=0.5)
    desirable, z0 = RANDOM.uniform(0.05, 0.95, M), 0.3
    log_p, score = scores(LOGITS)
    v = sigmoid(BETA * (log_p - scores(REFERENCE)[0] - z0))
    # d loss / d log pi(y): the completion is raised where w_d P(desirable) > w_u P(undesirable)
    slope = -BETA * v * (1 - v) * MU * (1.5 * desirable - 0.5 * (1 - desirable))
    ours = gradient(lambda table: label_loss(o, table, desirable, z0), LOGITS)
    assert_equal(ours, np.tensordot(slope, score, 1))
    assert (slope < 0).any()
    assert (slope > 0).any()


def test_the_gradient_of_sft_is_that_of_the_negative_log_likelihood() -> None:
    o = algorithm("sft").objective
    rows = [0, 3, 3, 6, 1, 5]  # lengths 1 and 2

    def loss(table: Tensor) -> Tensor:
        b = compute_advantages(o, select(table, rows, [1.0] * len(rows), list(range(len(rows)))))
        part = policy_loss(o, b)
        return part.total / part.count

    _, score = scores(LOGITS)
    assert_equal(gradient(loss, LOGITS), -score[rows].sum(0) / LENGTHS[rows].sum())
    # its optimum: the conditional frequencies of the demonstrations
    counts = np.bincount(rows, minlength=M) + 1e-300
    assert gradient(loss, table_of(counts / counts.sum())).abs().max() < 1e-8


# ---- the optima ----


def table_of(probabilities: Array) -> Tensor:
    """Return the logit table of a distribution over completions: log mass of the completions after each token."""
    mass = np.zeros((len(MDP.prefixes), MDP.vocabulary))
    for completion, p in zip(MDP.completions, probabilities, strict=True):
        for t, token in enumerate(completion):
            mass[MDP.prefixes.index(completion[:t]), token] += p
    return torch.tensor(np.log(mass))


def normalized(exponent: Any) -> Array:
    """Return the distribution exp(exponent(c)), with the constant c that makes it sum to 1."""
    low, high = -50.0, 50.0
    for _ in range(200):  # the sum increases with c
        c = (low + high) / 2
        low, high = (low, c) if np.exp(exponent(c)).sum() > 1 else (c, high)
    return np.exp(exponent(c))


def assert_minimum(loss: Any, table: Tensor) -> None:
    """Check that the gradient is 0 and that the loss is larger in every random direction."""
    assert gradient(loss, table).abs().max() < 1e-8
    at = loss(table)
    for seed in range(10):
        direction = MDP.table(100 + seed)
        direction = direction - direction.mean(1, keepdim=True)  # adding a constant to all logits changes nothing
        for step in (1e-2, 1.0):
            assert loss(table + step * direction) > at + 1e-9


def ref() -> Array:
    return np.exp(scores(REFERENCE)[0])


def test_the_optimum_of_dpo_is_the_reference_times_the_exponential_reward() -> None:
    p = ref() * np.exp(REWARD / BETA)
    table = table_of(p / p.sum())
    assert_minimum(lambda t: pair_loss(objective("dpo"), t, BRADLEY_TERRY), table)
    # it maximizes E[r] - beta KL as well
    tilted = TokenMDP(horizon=2, rewards=torch.tensor(REWARD))
    assert tilted.gradient(table, REFERENCE, BETA).abs().max() < 1e-8


def test_the_optimum_of_dpo_is_not_that_of_other_preferences_or_another_beta() -> None:
    p = ref() * np.exp(REWARD / BETA)
    table = table_of(p / p.sum())
    assert gradient(lambda t: pair_loss(objective("dpo"), t, INTRANSITIVE), table).abs().max() > 1e-3
    other = replace(objective("dpo"), kl=KL("reward", 2 * BETA))
    assert gradient(lambda t: pair_loss(other, t, BRADLEY_TERRY), table).abs().max() > 1e-3


def test_the_optimum_of_conservative_dpo_has_the_smoothed_log_odds_as_margin() -> None:
    # on one pair: P(chosen) (1 - epsilon) + P(rejected) epsilon
    o, p = objective("dpo", label_smoothing=0.1), 0.8
    smoothed = 0.9 * p + 0.1 * (1 - p)
    margin = torch.tensor(np.log(smoothed / (1 - smoothed)), requires_grad=True)
    assert abs(torch.autograd.grad(one_pair(o, margin / BETA, p), margin)[0].item()) < 1e-12


def one_pair(o: Objective, difference: Tensor, p: float) -> Tensor:
    """Return the expected loss of two completions of one token, whose log-probs differ by `difference`."""
    logprobs = torch.stack([difference, 0 * difference, 0 * difference, difference])[:, None] - 1
    b = Batch(
        action_mask=torch.ones(4, 1, dtype=torch.bool),
        rewards=torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64),
        group_ids=torch.tensor([0, 0, 1, 1]),
        terminated=torch.ones(4, dtype=torch.bool),
        truncated=torch.zeros(4, dtype=torch.bool),
        logprobs=logprobs,
        ref_logprobs=-torch.ones(4, 1, dtype=torch.float64),
        weights=2 * torch.tensor([p, p, 1 - p, 1 - p], dtype=torch.float64),
    )
    loss = policy_loss(o, compute_advantages(o, b), measure=False)
    return loss.total / loss.count


@pytest.mark.parametrize("preferences", [BRADLEY_TERRY, INTRANSITIVE], ids=["Bradley-Terry", "intransitive"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_optimum_of_ipo_is_the_probability_to_be_preferred(preferences: Array, normalize: bool) -> None:
    preferred = preferences @ MU  # P(y preferred to a completion of MU)
    lengths = LENGTHS if normalize else np.ones(M)
    p = normalized(lambda c: np.log(ref()) + lengths * (preferred / BETA + c))
    o = objective("ipo", length_normalized=normalize)
    assert_minimum(lambda t: pair_loss(o, t, preferences), table_of(p))


def test_the_optimum_of_simpo_without_margin_is_the_reward_per_token() -> None:
    o = objective("simpo", scale=2.0, margin=0.0)
    p = normalized(lambda c: LENGTHS * (REWARD + c) / 2.0)
    assert_minimum(lambda t: pair_loss(o, t, BRADLEY_TERRY), table_of(p))


def test_the_margin_of_simpo_moves_a_pair_further_apart_than_its_preference() -> None:
    p, gamma, scale = 0.8, 1.0, 2.0
    odds, g = p / (1 - p), np.exp(-gamma)
    # P sigma(gamma - m) = (1 - P) sigma(gamma + m), a quadratic equation in exp(m)
    m = np.log(((odds - 1) + np.sqrt((odds - 1) ** 2 + 4 * odds * g**2)) / (2 * g))
    difference = torch.tensor(m / scale, requires_grad=True)
    loss = one_pair(objective("simpo", scale=scale, margin=gamma), difference, p)
    assert abs(torch.autograd.grad(loss, difference)[0].item()) < 1e-12
    assert m > np.log(odds)


def test_kto_has_no_finite_optimum() -> None:
    o, desirable = objective("kto"), np.where(np.arange(M) < 3, 0.7, 0.3)
    losses = []
    for strength in (0.0, 1.0, 2.0, 4.0, 8.0):
        p = ref() * np.exp(strength * np.sign(desirable - 0.5))
        losses.append(float(label_loss(o, table_of(p / p.sum()), desirable, 0.0)))
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("name", ["sft", "dpo", "kto"])
def test_the_oracle_of_on_policy_updates_refuses_recorded_data(name: str) -> None:
    with pytest.raises(UserError, match="learns from recorded data"):
        report([name], horizon=1)
    if name != "sft":
        with pytest.raises(UserError, match="no expected reward"):
            compare(algorithm(name).objective, horizon=1)

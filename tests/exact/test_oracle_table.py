"""Each estimator in expectation, by enumeration: exact to 1e-10, exact up to a stated factor, or measurably biased."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rlalign.objective import KL, Credit, Filter, Objective, ObjectiveState, OffPolicy, Trust, Value
from rlalign.oracle import Comparison, TokenMDP, difficulty_weight, expected_gradient, kl_suite

TIGHT = 1e-10
CRITIC = {"baseline": "value", "value": Value("head")}


@pytest.fixture(scope="module")
def mdp() -> TokenMDP:
    return TokenMDP()


@pytest.fixture(scope="module")
def small() -> TokenMDP:
    return TokenMDP(horizon=3)


def measured(objective: Objective, mdp: TokenMDP, group_size: int = 1, **tables: Any) -> Comparison:
    """Return the expected gradient of an objective against the gradient of E[R]."""
    logits = mdp.table(1)
    gradient = expected_gradient(objective, mdp, logits, group_size=group_size, **tables)
    return Comparison.of(gradient, mdp.gradient(logits))


def test_probabilities_of_the_mdp_sum_to_one(mdp: TokenMDP) -> None:
    assert len(mdp.completions) == 31
    assert mdp.table(1).numel() == 45
    assert mdp.probabilities(mdp.table(1)).sum().item() == pytest.approx(1, abs=1e-14)
    assert mdp.value(mdp.table(1)).item() == pytest.approx(mdp.state_values(mdp.table(1))[0].item(), abs=1e-14)


def test_exact_gradient_is_the_slope_of_the_return(mdp: TokenMDP) -> None:
    logits, direction = mdp.table(1), mdp.table(5)
    h = 1e-5  # step of the central difference
    slope = (mdp.value(logits + h * direction) - mdp.value(logits - h * direction)) / (2 * h)
    assert slope.item() == pytest.approx((mdp.gradient(logits) * direction).sum().item(), rel=1e-8)


EXACT_ALONE: dict[str, Objective] = {
    "reinforce": Objective(),
    "reward to go": Objective(credit=Credit("reward_to_go")),
    "token ratio": Objective(ratio="token"),
    "token clip": Objective(ratio="token", trust=Trust("clip")),
    "dual clip": Objective(ratio="token", trust=Trust("dual_clip")),
    "soft gate": Objective(ratio="token", trust=Trust("soft_gate")),
    "divergence mask": Objective(ratio="token", trust=Trust("divergence_mask")),
    "cispo": Objective(ratio="token", trust=Trust("stopgrad_cap", 1.0, 4.0)),
    "sequence product": Objective(ratio="sequence_product", aggregation="sequence_mean"),
    "sequence product, clipped": Objective(ratio="sequence_product", trust=Trust("clip"), aggregation="sequence_mean"),
    "geometric mean × length": Objective(
        ratio="sequence_geomean", trust=Trust("clip", 3e-4, 4e-4), aggregation="sequence_sum"
    ),
    "greedy baseline": Objective(baseline="greedy"),
    "state baseline": Objective(**CRITIC),
    "state baseline, reward to go": Objective(**CRITIC, credit=Credit("reward_to_go")),
    "gae lambda 1, any V": Objective(**CRITIC, credit=Credit("gae", lambda_actor=1.0, bootstrap=False)),
}


@pytest.mark.parametrize("name", EXACT_ALONE)
def test_exact_with_one_sample(mdp: TokenMDP, name: str) -> None:
    assert measured(EXACT_ALONE[name], mdp, values=mdp.table(3)[:, 0]).relative_error < TIGHT


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
def test_gae_with_the_exact_value_is_exact_at_any_lambda(mdp: TokenMDP, lam: float) -> None:
    objective = Objective(**CRITIC, credit=Credit("gae", lambda_actor=lam, bootstrap=False))
    exact_values = mdp.state_values(mdp.table(1))
    assert measured(objective, mdp, values=exact_values).relative_error < TIGHT
    assert measured(objective, mdp, values=exact_values + mdp.table(3)[:, 0]).relative_error > 1e-2


@pytest.mark.parametrize("ema", [None, 0.0, 0.37])
def test_moving_average_baseline_is_exact(ema: float | None) -> None:
    state = ObjectiveState(kl_coef=0.0, ema=ema)
    for size in (1, 2) if ema is not None else (2, 3):
        assert measured(Objective(baseline="ema"), TokenMDP(horizon=2), size, state=state).relative_error < TIGHT


@pytest.mark.parametrize("group_size", [2, 3])
def test_leave_one_out_is_exact(group_size: int) -> None:
    mdp = TokenMDP(horizon=5 - group_size)
    assert measured(Objective(baseline="leave_one_out"), mdp, group_size).relative_error < TIGHT


@pytest.mark.parametrize("baseline", ["group_mean", "batch_mean"])
@pytest.mark.parametrize("group_size", [2, 3])
def test_a_baseline_with_the_own_sample_scales_the_gradient_by_one_minus_one_gth(
    group_size: int, baseline: str
) -> None:
    comparison = measured(Objective(baseline=baseline), TokenMDP(horizon=5 - group_size), group_size)
    assert comparison.scale == pytest.approx((group_size - 1) / group_size, rel=TIGHT)
    assert comparison.residual < TIGHT


def test_constant_aggregation_is_exact_up_to_the_factor_one_over_the_limit(mdp: TokenMDP) -> None:
    comparison = measured(Objective(aggregation="constant"), mdp)
    assert comparison.scale == pytest.approx(1 / 4, rel=TIGHT)
    assert comparison.residual < TIGHT


def test_first_step_of_gspo_is_the_sequence_mean_gradient(small: TokenMDP) -> None:
    grouped = Objective(baseline="group_mean", scale="group_std", ratio="token", aggregation="sequence_mean")
    gspo = replace(grouped, ratio="sequence_geomean", trust=Trust("clip", 3e-4, 4e-4))
    gmpo = replace(grouped, ratio="sequence_geomean", trust=Trust("log_clip", 0.4, 0.4))
    expected = expected_gradient(grouped, small, small.table(1))
    for objective in (gspo, gmpo):
        torch.testing.assert_close(
            expected_gradient(objective, small, small.table(1)), expected, rtol=1e-10, atol=1e-14
        )


# ---- scales ----

GROUP_STD = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)


@pytest.mark.parametrize("group_size", [2, 3])
def test_group_std_on_binary_rewards_is_the_difficulty_weight(group_size: int) -> None:
    mdp = TokenMDP(horizon=5 - group_size, rewards="binary", seed=3)
    p = mdp.value(mdp.table(1)).item()
    comparison = measured(GROUP_STD, mdp, group_size)
    assert comparison.residual < TIGHT
    assert comparison.scale == pytest.approx(difficulty_weight(GROUP_STD, p, group_size), rel=TIGHT)


def test_difficulty_weight_equals_published_values() -> None:
    for p in (0.01, 0.1, 0.5, 0.9):
        assert difficulty_weight(GROUP_STD, p, 2) == pytest.approx(math.sqrt(0.5), rel=TIGHT)
    assert [round(difficulty_weight(GROUP_STD, p, 8), 2) for p in (0.01, 0.1, 0.5)] == [2.44, 2.18, 1.74]
    for p in (0.1, 0.5):
        assert difficulty_weight(GROUP_STD, p, 100) == pytest.approx(1 / math.sqrt(p * (1 - p)), rel=0.05)


def test_scale_eps_changes_the_difficulty_weight_by_the_formula() -> None:
    eps = replace(GROUP_STD, scale_eps=1e-4)
    assert difficulty_weight(eps, 0.3, 2) == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4), rel=TIGHT)


@pytest.mark.parametrize("group_size", [2, 4, 8])
@pytest.mark.parametrize("p", [0.05, 0.5])
def test_maxrl_follows_the_likelihood_up_to_its_order(group_size: int, p: float) -> None:
    def order(n: int) -> float:
        return sum((1 - p) ** k for k in range(n))

    ratio = Objective(baseline="none", scale="group_mean")
    centered = Objective(baseline="group_mean", scale="group_mean")
    assert difficulty_weight(ratio, p, group_size) == pytest.approx(order(group_size), rel=TIGHT)
    assert difficulty_weight(centered, p, group_size) == pytest.approx(order(group_size - 1), rel=TIGHT)


def test_maxrl_with_two_samples_is_the_exact_gradient_on_binary_rewards() -> None:
    mdp = TokenMDP(horizon=3, rewards="binary", seed=3)
    centered = Objective(baseline="group_mean", scale="group_mean")
    assert measured(centered, mdp, 2).relative_error < TIGHT


BIASED: dict[str, tuple[int, Objective]] = {
    "sequence_mean": (1, Objective(aggregation="sequence_mean")),
    "token_global": (2, Objective(aggregation="token_global")),
    "group_std": (2, Objective(baseline="group_mean", scale="group_std")),
    "opo": (2, Objective(baseline="length_weighted_group_mean")),
    "drop truncated": (2, Objective(filter=Filter(drop_truncated=True))),
    "gamma < 1 on a terminal reward": (1, Objective(credit=Credit("reward_to_go", gamma=0.9))),
    "whiten": (2, Objective(scale="whiten")),
    "batch_std": (2, Objective(baseline="group_mean", scale="batch_std")),
}


@pytest.mark.parametrize("name", BIASED)
def test_bias_is_more_than_a_factor(small: TokenMDP, name: str) -> None:
    group_size, objective = BIASED[name]
    comparison = measured(objective, small, group_size)
    assert comparison.residual > 1e-3
    assert 0.2 < comparison.cosine < 1 - 1e-5


# ---- KL ----


@pytest.fixture(scope="module")
def suite() -> dict[str, tuple[Comparison, Comparison]]:
    return kl_suite()


@pytest.mark.parametrize(
    "name",
    [
        "k1 in the reward",
        "k2 in the loss, sequence",
        "k3 in the loss, token, × sequence ratio",
        "k3 in the loss, sequence, × sequence ratio",
        "k1 in the loss, token, × sequence ratio",
    ],
)
def test_exact_gradient_of_kl(suite: dict[str, tuple[Comparison, Comparison]], name: str) -> None:
    assert suite[name][0].relative_error < TIGHT


def test_k1_in_the_loss_has_zero_expected_gradient(suite: dict[str, tuple[Comparison, Comparison]]) -> None:
    for level in ("token", "sequence"):
        comparison = suite[f"k1 in the loss, {level}"][0]
        assert abs(comparison.relative_error - 1) < TIGHT
        assert abs(comparison.scale) < TIGHT


def test_k3_in_the_loss_has_the_gradient_of_the_reversed_kl(suite: dict[str, tuple[Comparison, Comparison]]) -> None:
    forward, backward = suite["k3 in the loss, sequence"]
    assert backward.relative_error < TIGHT
    assert forward.residual > 0.05


def test_k1_in_the_reward_to_go_is_exact(mdp: TokenMDP) -> None:
    logits, reference = mdp.table(1), mdp.table(2)
    for level in ("token", "sequence"):
        objective = Objective(credit=Credit("reward_to_go"), kl=KL("reward", 0.3, level=level))
        gradient = expected_gradient(objective, mdp, logits, group_size=1, reference=reference)
        assert Comparison.of(gradient, mdp.gradient(logits, reference, 0.3)).relative_error < TIGHT


def test_k2_per_token_is_k1_in_the_reward_without_a_future() -> None:
    mdp = TokenMDP()
    mdp.rewards = torch.zeros_like(mdp.rewards)
    logits, reference = mdp.table(1), mdp.table(2)
    in_loss = Objective(kl=KL("loss", 1.0, "k2"))
    myopic = Objective(kl=KL("reward", 1.0, "k1"), credit=Credit("reward_to_go", gamma=0.0))
    a, b = (expected_gradient(o, mdp, logits, group_size=1, reference=reference) for o in (in_loss, myopic))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert Comparison.of(a, mdp.gradient(logits, reference, 1.0)).residual > 0.05


# ---- a sampler that differs from the learner ----

OFF_POLICY_EXACT = {
    "sequence ratio": Objective(ratio="sequence_product", aggregation="sequence_mean"),
    "sequence weight": Objective(off_policy=OffPolicy("tis", "sequence", high=1e9)),
}
OFF_POLICY_BIASED = {
    "no weight": Objective(),
    "token ratio": Objective(ratio="token"),
    "token weight": Objective(off_policy=OffPolicy("tis", "token", high=1e9)),
    "tis": Objective(off_policy=OffPolicy("tis", "sequence", high=1.0)),
    "mis": Objective(off_policy=OffPolicy("mis", "sequence", 0.5, 1.5)),
    "opsm": Objective(baseline="ema", off_policy=OffPolicy("opsm", delta=0.05)),
}


@pytest.mark.parametrize("name", [*OFF_POLICY_EXACT, *OFF_POLICY_BIASED])
def test_only_sequence_weights_correct_a_different_sampler(mdp: TokenMDP, name: str) -> None:
    sampler = mdp.table(1) + 0.3 * mdp.table(4)
    state = ObjectiveState(kl_coef=0.0, ema=0.4)
    comparison = measured({**OFF_POLICY_EXACT, **OFF_POLICY_BIASED}[name], mdp, sampler=sampler, state=state)
    assert comparison.relative_error < TIGHT if name in OFF_POLICY_EXACT else comparison.residual > 1e-3


# ---- the end of an episode ----


def test_a_truncated_episode_is_bootstrapped_and_a_terminated_one_is_not(mdp: TokenMDP) -> None:
    # truncated completions have no reward yet and would be worth `later`: the bootstrap restores exactly that
    later = torch.rand(len(mdp.completions), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    partial = TokenMDP(rewards=mdp.rewards.where(mdp.terminated, 0))
    complete = TokenMDP(rewards=mdp.rewards.where(mdp.terminated, later))
    logits = mdp.table(1)
    objective = Objective(**CRITIC, credit=Credit("gae", lambda_actor=1.0, bootstrap=True))
    tables = {"values": mdp.table(3)[:, 0], "final_values": later}
    gradient = expected_gradient(objective, partial, logits, group_size=1, **tables)
    assert Comparison.of(gradient, complete.gradient(logits)).relative_error < TIGHT
    without = replace(objective, credit=replace(objective.credit, bootstrap=False))
    gradient = expected_gradient(without, partial, logits, group_size=1, **tables)
    assert Comparison.of(gradient, partial.gradient(logits)).relative_error < TIGHT


def test_a_bootstrap_after_a_complete_reward_is_biased(mdp: TokenMDP) -> None:
    objective = Objective(**CRITIC, credit=Credit("gae", lambda_actor=1.0, bootstrap=True))
    later = torch.full((31,), 0.8, dtype=torch.float64)
    assert measured(objective, mdp, values=mdp.table(3)[:, 0], final_values=later).residual > 0.05

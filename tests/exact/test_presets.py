"""Every preset through the oracle, on policy: the bias stated in its row equals the measured bias."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlalign.algorithms import algorithm, sampling_presets
from rlalign.objective import Objective
from rlalign.oracle import Comparison, Row, TokenMDP, difficulty_weight, expected_gradient, report

TIGHT = 1e-10


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.algorithm.name: row for row in report("all", horizon=2)}


@pytest.mark.parametrize("name", sampling_presets())
def test_the_stated_bias_equals_the_measured_bias(rows: dict[str, Row], name: str) -> None:
    row = rows[name]
    bias = algorithm(name).bias
    if bias.startswith("Exact:"):
        assert row.graded.relative_error < TIGHT
        assert row.binary.relative_error < TIGHT
    elif bias.startswith("Exact up to"):
        assert row.graded.residual < TIGHT
        assert row.graded.scale == pytest.approx(1 / 2 / 2, rel=TIGHT)  # (G-1)/(G · L_max) of two samples, limit 2
    elif bias.startswith("Exact for another"):
        assert row.binary.relative_error < TIGHT
        assert row.graded.residual > 1e-3
    else:
        assert bias.startswith("Biased")
        assert row.graded.residual > 1e-3
        assert row.graded.cosine > 0.5


def test_luspo_is_biased_by_the_group_std_alone(rows: dict[str, Row]) -> None:
    objective = algorithm("luspo").objective
    assert rows["luspo"].binary.residual < TIGHT
    assert rows["luspo"].binary.scale == pytest.approx(difficulty_weight(objective, 0.5, 2), rel=TIGHT)


def test_presets_of_one_family_have_equal_first_updates(rows: dict[str, Row]) -> None:
    for family in (("gspo", "gmpo", "sapo"), ("cispo", "dppo")):
        first = rows[family[0]].graded
        for name in family[1:]:
            assert rows[name].graded.cosine == pytest.approx(first.cosine, rel=1e-9)
            assert rows[name].graded.scale == pytest.approx(first.scale, rel=1e-9)


def test_ppo_without_its_biases_is_exact() -> None:
    mdp = TokenMDP(horizon=3)
    ppo = algorithm("ppo").objective
    plain = replace(ppo, scale="none", aggregation="sequence_sum", credit=replace(ppo.credit, lambda_actor=1.0))
    logits, reference = mdp.table(1), mdp.table(2)
    gradient = expected_gradient(plain, mdp, logits, group_size=2, values=mdp.table(3)[:, 0], reference=reference)
    assert Comparison.of(gradient, mdp.gradient(logits, reference, ppo.kl.coef)).relative_error < TIGHT


def test_grpo_without_its_divisions_is_exact_up_to_one_gth() -> None:
    mdp = TokenMDP(horizon=3)
    grpo = algorithm("grpo").objective
    plain: Objective = replace(grpo, scale="none", aggregation="sequence_sum", kl=replace(grpo.kl, where="none"))
    comparison = Comparison.of(expected_gradient(plain, mdp, mdp.table(1)), mdp.gradient(mdp.table(1)))
    assert comparison.scale == pytest.approx(0.5, rel=TIGHT)
    assert comparison.residual < TIGHT


def test_grpo_on_one_token_binary_rewards_is_the_difficulty_weight() -> None:
    # completions of one token have 1/|y| = 1: the remaining bias of GRPO is the group's standard deviation
    mdp = TokenMDP(horizon=1, vocabulary=5, rewards="binary", seed=2)
    grpo = algorithm("grpo").objective
    plain = replace(grpo, kl=replace(grpo.kl, where="none"))
    p = mdp.value(mdp.table(1)).item()
    assert 0.05 < p < 0.95
    for size in (2, 4):
        comparison = Comparison.of(
            expected_gradient(plain, mdp, mdp.table(1), group_size=size), mdp.gradient(mdp.table(1))
        )
        assert comparison.residual < TIGHT
        assert comparison.scale == pytest.approx(difficulty_weight(plain, p, size), rel=TIGHT)
        assert math.isfinite(comparison.cosine)

"""Every preset through the oracle, on policy: what its row says of its bias is what enumeration finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rlalign.algorithms import ALGORITHMS, algorithm
from rlalign.objective import Objective
from rlalign.oracle import Comparison, Row, TokenMDP, difficulty_weight, expected_gradient, report

TIGHT = 1e-10


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.algorithm.name: row for row in report("all", horizon=2)}


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_the_stated_bias_is_the_measured_one(rows: dict[str, Row], name: str) -> None:
    row, said = rows[name], algorithm(name).bias
    if said.startswith("Exact:"):
        assert row.graded.relative_error < TIGHT
        assert row.binary.relative_error < TIGHT
    elif said.startswith("Exact up to"):
        assert row.graded.residual < TIGHT
        assert row.graded.scale == pytest.approx(1 / 2 / 2, rel=TIGHT)  # (G-1)/(G · L_max) of two samples, limit 2
    elif said.startswith("Exact for another"):
        assert row.binary.relative_error < TIGHT
        assert row.graded.residual > 1e-3
    else:
        assert said.startswith("Biased")
        assert row.graded.residual > 1e-3
        assert row.graded.cosine > 0.5


def test_luspo_is_biased_by_the_spread_alone(rows: dict[str, Row]) -> None:
    spread = algorithm("luspo").objective
    assert rows["luspo"].binary.residual < TIGHT
    assert rows["luspo"].binary.scale == pytest.approx(difficulty_weight(spread, 0.5, 2), rel=TIGHT)


def test_families_share_their_first_update(rows: dict[str, Row]) -> None:
    for family in (("gspo", "gmpo", "sapo"), ("cispo", "dppo")):
        first = rows[family[0]].graded
        for name in family[1:]:
            assert rows[name].graded.cosine == pytest.approx(first.cosine, rel=1e-9)
            assert rows[name].graded.scale == pytest.approx(first.scale, rel=1e-9)


def test_ppo_without_its_shortcuts_is_exact() -> None:
    mdp = TokenMDP(horizon=3)
    ppo = algorithm("ppo").objective
    plain = replace(ppo, scale="none", aggregation="sequence_sum", credit=replace(ppo.credit, lambda_actor=1.0))
    logits, reference = mdp.table(1), mdp.table(2)
    found = expected_gradient(plain, mdp, logits, group_size=2, values=mdp.table(3)[:, 0], reference=reference)
    assert Comparison.of(found, mdp.gradient(logits, reference, ppo.kl.coef)).relative_error < TIGHT


def test_grpo_without_its_divisions_is_exact_up_to_one_gth() -> None:
    mdp = TokenMDP(horizon=3)
    grpo = algorithm("grpo").objective
    plain: Objective = replace(grpo, scale="none", aggregation="sequence_sum", kl=replace(grpo.kl, where="none"))
    found = Comparison.of(expected_gradient(plain, mdp, mdp.table(1)), mdp.gradient(mdp.table(1)))
    assert found.scale == pytest.approx(0.5, rel=TIGHT)
    assert found.residual < TIGHT


def test_grpo_on_one_token_binary_rewards_is_the_difficulty_weight() -> None:
    # with one token to say, 1/|y| is 1: what is left of GRPO's bias is the group's spread
    mdp = TokenMDP(horizon=1, vocabulary=5, rewards="binary", seed=2)
    grpo = algorithm("grpo").objective
    plain = replace(grpo, kl=replace(grpo.kl, where="none"))
    p = mdp.value(mdp.table(1)).item()
    assert 0.05 < p < 0.95
    for size in (2, 4):
        found = Comparison.of(expected_gradient(plain, mdp, mdp.table(1), group_size=size), mdp.gradient(mdp.table(1)))
        assert found.residual < TIGHT
        assert found.scale == pytest.approx(difficulty_weight(plain, p, size), rel=TIGHT)
        assert math.isfinite(found.cosine)

"""Planted errors (mutants), each with a check that passes on the library and fails on the mutant.

Learning curves do not reveal these errors; exact gradients do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.objective import (
    KL,
    Batch,
    Credit,
    Objective,
    Trust,
    Value,
    advantages,
    aggregation,
    baselines,
    compute_advantages,
    credit,
    kl,
    policy_loss,
    scales,
    token_rewards,
)
from rlalign.objective.loss import surrogate
from rlalign.objective.registries import BASELINES, LOSSES
from rlalign.oracle import Comparison, TokenMDP, expected_gradient

Patch = Callable[[pytest.MonkeyPatch], None]


# ---- the checks: each compares an expected gradient with the exact one, or two results that must be equal ----


def is_exact(objective: Objective, group_size: int = 1, scale: float = 1.0, **tables: Any) -> None:
    """Compare the expected gradient of an objective with `scale` times the exact gradient."""
    mdp = TokenMDP(horizon=3 if group_size == 2 else 4)
    logits = mdp.table(1)
    if "reference" in tables:
        tables["reference"] = mdp.table(2)
    expected = expected_gradient(objective, mdp, logits, group_size=group_size, **tables)
    beta = objective.kl.coef if objective.kl.where != "none" else 0.0
    exact = scale * mdp.gradient(logits, tables.get("reference"), beta)
    assert Comparison.of(expected, exact).relative_error < 1e-10


def reinforce_is_exact() -> None:
    is_exact(Objective(credit=Credit("reward_to_go")))


def reward_to_go_includes_its_own_token() -> None:
    is_exact(Objective(credit=Credit("reward_to_go"), kl=KL("reward", 0.5)), reference=True)


def leave_one_out_is_exact() -> None:
    is_exact(Objective(baseline="leave_one_out"), group_size=2)


def constant_aggregation_is_one_over_the_limit() -> None:
    is_exact(Objective(aggregation="constant"), scale=1 / 4)


def terminated_is_not_bootstrapped() -> None:
    # truncated completions have no reward yet and would be worth `later`: the bootstrap restores exactly that
    mdp = TokenMDP()
    later = torch.rand(len(mdp.completions), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    complete = TokenMDP(rewards=mdp.rewards.where(mdp.terminated, later))
    mdp.rewards = mdp.rewards.where(mdp.terminated, 0)
    objective = Objective(baseline="value", value=Value("head"), credit=Credit("gae", lambda_actor=1.0, bootstrap=True))
    logits = mdp.table(1)
    expected = expected_gradient(objective, mdp, logits, group_size=1, values=mdp.table(3)[:, 0], final_values=later)
    assert Comparison.of(expected, complete.gradient(logits)).relative_error < 1e-10


def padding_changes_nothing() -> None:
    objective = Objective(scale="whiten", ratio="token", trust=Trust("clip"), aggregation="token_global")
    mdp = TokenMDP()
    rows = torch.tensor([0, 3, 9, 30])
    batch = mdp.batch(mdp.table(1))[rows]
    assert batch.sampler_logprobs is not None
    wide = {n: torch.nn.functional.pad(x, (0, 3), value=7.0) for n, x in batch.tensors().items() if x.ndim == 2}
    wide["action_mask"] = torch.nn.functional.pad(batch.action_mask, (0, 3))
    padded = replace(batch, **wide)  # type: ignore[arg-type]  # fields by name
    a = compute_advantages(objective, batch).advantages
    b = compute_advantages(objective, padded).advantages
    assert a is not None
    assert b is not None
    torch.testing.assert_close(a, b[:, : a.shape[1]])


def parts_add_up_to_the_batch() -> None:
    mdp = TokenMDP()
    for kind in aggregation.KINDS:
        objective = Objective(aggregation=kind)  # type: ignore[arg-type]  # a string that is one of its kinds
        batch = compute_advantages(objective, mdp.batch(mdp.table(1))[torch.tensor([0, 3, 9, 30])])
        parts = [policy_loss(objective, batch[rows]) for rows in (slice(0, 1), slice(1, 4))]
        assert sum(float(p.count) for p in parts) == float(policy_loss(objective, batch).count)
        expected = {"sequence_sum": 4, "sequence_mean": 4, "constant": 16, "token_global": int(batch.action_mask.sum())}
        assert float(policy_loss(objective, batch).count) == expected[kind]


# ---- the mutants ----


def sign_flip(m: pytest.MonkeyPatch) -> None:
    m.setitem(LOSSES._items, "surrogate", lambda o, b: -surrogate(o, b))


def off_by_one(m: pytest.MonkeyPatch) -> None:
    true = credit.reward_to_go
    m.setattr(credit, "reward_to_go", lambda r, mask, g: torch.where(mask, true(r, mask, g) - r, 0))


def masked_eos(m: pytest.MonkeyPatch) -> None:
    true = TokenMDP.batch

    def batch(self: TokenMDP, *a: Any, **k: Any) -> Batch:
        b = true(self, *a, **k)
        length = b.action_mask.sum(1, keepdim=True)
        eos = (torch.arange(b.action_mask.shape[1]) == length - 1) & b.terminated[:, None] & (length > 1)
        return replace(b, action_mask=b.action_mask & ~eos)

    m.setattr(TokenMDP, "batch", batch)


def first_token_dropped(m: pytest.MonkeyPatch) -> None:
    true = TokenMDP.batch

    def batch(self: TokenMDP, *a: Any, **k: Any) -> Batch:
        b = true(self, *a, **k)
        first = (torch.arange(b.action_mask.shape[1]) == 0) & (b.action_mask.sum(1, keepdim=True) > 1)
        return replace(b, action_mask=b.action_mask & ~first)

    m.setattr(TokenMDP, "batch", batch)


def own_sample(m: pytest.MonkeyPatch) -> None:
    m.setitem(BASELINES._items, "leave_one_out", baselines.group_mean)


def one_over_length(m: pytest.MonkeyPatch) -> None:
    true = aggregation.total
    m.setattr(aggregation, "total", lambda kind, x, b: true("sequence_mean", x, b))


def wrong_denominator(m: pytest.MonkeyPatch) -> None:
    m.setattr(aggregation, "count", lambda kind, b: b.action_mask.any(1).sum().to(b.rewards.dtype))


def denominator_of_a_part(m: pytest.MonkeyPatch) -> None:
    m.setattr(aggregation, "count", lambda kind, b: torch.ones((), dtype=b.rewards.dtype))


def padding_in_whitening(m: pytest.MonkeyPatch) -> None:
    true = scales.whiten
    m.setattr(scales, "whiten", lambda x, mask, eps: true(x, torch.ones_like(mask), eps))


def bootstrap_at_termination(m: pytest.MonkeyPatch) -> None:
    true = advantages._credit

    def mutated(o: Objective, b: Batch, r: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.ones_like(b.truncated)
        return true(o, replace(b, terminated=~every, truncated=every), r, mask)

    m.setattr(advantages, "_credit", mutated)


def no_bootstrap_at_truncation(m: pytest.MonkeyPatch) -> None:
    true = credit.gae
    m.setattr(credit, "gae", lambda r, v, after, mask, g, lam: true(r, v, torch.zeros_like(after), mask, g, lam))


def wrong_temperature(m: pytest.MonkeyPatch) -> None:
    true = TokenMDP.batch

    def batch(self: TokenMDP, logits: Tensor, **k: Any) -> Batch:
        return true(self, logits / 0.8, **k)

    m.setattr(TokenMDP, "batch", batch)


def kl_sign(m: pytest.MonkeyPatch) -> None:
    m.setattr(token_rewards, "in_reward", lambda *a: -kl.in_reward(*a))


def reward_of_a_neighbour(m: pytest.MonkeyPatch) -> None:
    true = advantages.token_rewards
    m.setattr(advantages, "token_rewards", lambda o, b, beta: true(o, replace(b, rewards=b.rewards.roll(1, 0)), beta))


MUTANTS: list[tuple[Patch, Callable[[], None]]] = [
    (sign_flip, reinforce_is_exact),
    (off_by_one, reward_to_go_includes_its_own_token),
    (masked_eos, reinforce_is_exact),
    (first_token_dropped, reinforce_is_exact),
    (own_sample, leave_one_out_is_exact),
    (one_over_length, reinforce_is_exact),
    (wrong_denominator, constant_aggregation_is_one_over_the_limit),
    (denominator_of_a_part, parts_add_up_to_the_batch),
    (padding_in_whitening, padding_changes_nothing),
    (bootstrap_at_termination, terminated_is_not_bootstrapped),
    (no_bootstrap_at_truncation, terminated_is_not_bootstrapped),
    (wrong_temperature, reinforce_is_exact),
    (kl_sign, reward_to_go_includes_its_own_token),
    (reward_of_a_neighbour, leave_one_out_is_exact),
]
CHECKS = list(dict.fromkeys(check for _, check in MUTANTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_check_passes_on_the_library(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(("mutant", "check"), MUTANTS, ids=lambda f: f.__name__)
def test_the_check_detects_the_mutant(
    mutant: Patch, check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check()

"""The KL to two reference policies, continual.anchor both, is the mean of both KLs: value, gradient, path of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.config.schema import LearnerConfig
from rlalign.objective import KL, Objective, ObjectiveState, policy_loss
from rlalign.objective.advantages import compute_advantages
from rlalign.oracle import TokenMDP, expected_gradient
from rlalign.policies.tabular import TabularPolicy
from rlalign.teachers.local import LocalTeacher
from rlalign.training.learner import Learner
from tests.exact.test_learner_is_the_oracle import HORIZON, SAMPLING, policy_of, relative, rollout_of

TIGHT = 1e-10
BETA = 0.7


def exact(mdp: TokenMDP, logits: Tensor) -> Tensor:
    """Return the gradient of E[R] - beta · (KL(pi‖ref_1) + KL(pi‖ref_2)) / 2."""
    table = logits.detach().requires_grad_()
    kl = (mdp.kl(table, mdp.table(2)) + mdp.kl(table, mdp.table(3))) / 2
    return torch.autograd.grad(mdp.value(table) - BETA * kl, table)[0]


@pytest.mark.parametrize(
    "kl",
    [
        KL("reward", BETA, "k1"),
        KL("loss", BETA, "k2", level="sequence"),
        KL("loss", BETA, "k1", importance="sequence"),
        KL("loss", BETA, "k3", level="sequence", importance="sequence"),
    ],
)
def test_the_expected_gradient_is_that_of_the_mean_of_both_kls(kl: KL) -> None:
    mdp = TokenMDP(horizon=3)
    objective = Objective(kl=kl, aggregation="sequence_sum")
    tables = {"reference": mdp.table(2), "second_reference": mdp.table(3)}
    gradient = expected_gradient(objective, mdp, mdp.table(1), group_size=1, **tables)
    assert relative(gradient, exact(mdp, mdp.table(1))) < TIGHT


def test_the_mean_of_the_log_probs_would_have_another_gradient() -> None:
    """The estimator k3 of a reference with the mean log-probs, which is no distribution, is not the mean of both."""
    mdp = TokenMDP(horizon=3)
    kl = KL("loss", BETA, "k3")
    objective = Objective(kl=kl, aggregation="sequence_sum")
    logits = mdp.table(1).requires_grad_()
    batch = mdp.batch(logits, reference=mdp.table(2), second_reference=mdp.table(3))
    assert batch.ref_logprobs is not None
    assert batch.second_ref_logprobs is not None
    mean = replace(batch, ref_logprobs=(batch.ref_logprobs + batch.second_ref_logprobs) / 2, second_ref_logprobs=None)
    totals = []
    for rows in (batch, mean):
        loss = policy_loss(objective, compute_advantages(objective, rows), measure=False)
        totals.append(torch.autograd.grad(loss.total, logits, retain_graph=True)[0])
    assert relative(*totals) > 1e-3


def second_policy(mdp: TokenMDP, like: TabularPolicy, index: Tensor) -> TabularPolicy:
    """Return a policy with the table of the second reference."""
    policy = TabularPolicy(like.tokenizer, horizon=HORIZON + 1)
    with torch.no_grad():
        policy.table[index] = SAMPLING.temperature * mdp.table(3)
    return policy


def learner_gradient(mdp: TokenMDP, kl: KL, **settings: Any) -> Tensor:
    """Return Σ over completions of probability · the learner's ascent direction, [prefixes, V]."""
    policy, index = policy_of(mdp, None)
    previous = LocalTeacher(second_policy(mdp, policy, index), "previous")
    p = mdp.probabilities(mdp.table(1)).detach()
    total = torch.zeros(len(mdp.prefixes), mdp.vocabulary, dtype=torch.float64)
    for row in range(len(p)):
        learner = Learner(
            policy, Objective(kl=kl, aggregation="sequence_sum"), LearnerConfig(**settings), sampling=SAMPLING,
            total_updates=1, generator=torch.Generator(), max_length=HORIZON, second_reference=previous,
        )  # fmt: skip
        buffer = learner.prepare(rollout_of(mdp, policy, [row]))
        policy.zero_grad()
        learner.accumulate_gradient(buffer, buffer.plan[0])
        assert policy.table.grad is not None
        total -= p[row] * policy.table.grad[index]
    return SAMPLING.temperature * total


@pytest.mark.parametrize("kl", [KL("reward", BETA, "k1"), KL("loss", BETA, "k2", level="sequence")])
def test_the_learner_computes_both_log_probs_and_has_that_gradient(kl: KL) -> None:
    mdp = TokenMDP(horizon=HORIZON)
    assert relative(learner_gradient(mdp, kl), exact(mdp, mdp.table(1))) < 1e-6  # log-probs are float32 here


def test_metrics_and_the_adaptive_coefficient_read_both_references() -> None:
    mdp = TokenMDP(horizon=3)
    kl = KL("reward", BETA, "k1", target=0.1, horizon=100.0)
    objective = Objective(kl=kl)
    batch = mdp.batch(mdp.table(1), reference=mdp.table(2), second_reference=mdp.table(3))
    k1 = torch.stack([(batch.logprobs - ref).sum(1) for ref in batch.references("this test")]).mean()
    loss = policy_loss(objective, compute_advantages(objective, batch))
    total, count = loss.metrics["kl"]
    assert float(total / count) == pytest.approx(float(k1), abs=1e-12)
    state = ObjectiveState.start(objective)
    state.update(objective, batch)
    error = min(max(float(k1) / 0.1 - 1, -0.2), 0.2)
    assert state.kl_coef == pytest.approx(BETA * (1 + error * len(batch.rewards) / 100), abs=1e-12)

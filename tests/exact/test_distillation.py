"""Distillation against a direct computation of the reverse and the forward KL, by enumeration.

The oracle's expectation runs through `compute_advantages` and `policy_loss` in float64. The learner's expectation takes
the path of a run: a teacher's scores, the rewards of distillation, `Learner.prepare` and micro-batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.algorithms import algorithm
from rlalign.config.defaults import default_config
from rlalign.config.schema import LearnerConfig, TrainConfig
from rlalign.config.serialize import update
from rlalign.objective import Credit, Objective
from rlalign.oracle import TokenMDP, expected_gradient
from rlalign.policies.tabular import TabularPolicy
from rlalign.teachers.local import LocalTeacher
from rlalign.training import distillation
from rlalign.training.learner import Learner
from rlalign.training.preparation import Preparation
from tests.exact.test_learner_is_the_oracle import HORIZON, SAMPLING, policy_of, rollout_of

TIGHT = 1e-10
DISTILL = algorithm("distill").objective
SEQ_KD = algorithm("seq_kd").objective


def relative(a: Tensor, b: Tensor) -> float:
    """Return the relative error |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def reverse_kl(mdp: TokenMDP, logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(pi‖teacher), summed over all completions."""
    p, q = mdp.logprobs(logits).sum(1), mdp.logprobs(teacher).sum(1)
    return (p.exp() * (p - q)).sum()


def forward_kl(mdp: TokenMDP, logits: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher‖pi), summed over all completions."""
    p, q = mdp.logprobs(logits).sum(1), mdp.logprobs(teacher).sum(1)
    return (q.exp() * (q - p)).sum()


def own_token_kl(mdp: TokenMDP, logits: Tensor, teacher: Tensor) -> Tensor:
    """Return Σ over prefixes of their probability, without gradient, times the KL of the next token."""
    p, q = logits.log_softmax(1), teacher.log_softmax(1)
    kl = (p.exp() * (p - q)).sum(1)
    probabilities = mdp.probabilities(logits).detach()
    visits = torch.zeros(len(mdp.prefixes), dtype=torch.float64)
    for t in range(mdp.horizon):
        on = mdp.mask[:, t]
        visits.index_add_(0, mdp.prefix[on, t], probabilities[on])
    return (visits * kl).sum()


def descent(divergence: Any, mdp: TokenMDP, logits: Tensor, teacher: Tensor) -> Tensor:
    """Return minus the gradient of a divergence with respect to the policy's logits."""
    table = logits.detach().requires_grad_()
    return -torch.autograd.grad(divergence(mdp, table, teacher), table)[0]


def without_reward(horizon: int = 3) -> TokenMDP:
    """Return an MDP whose rewards are 0."""
    count = len(TokenMDP(horizon=horizon).completions)
    return TokenMDP(horizon=horizon, rewards=torch.zeros(count, dtype=torch.float64))


@pytest.mark.parametrize("credit", [Credit("reward_to_go"), Credit("trajectory")])
@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_the_expected_gradient_is_that_of_the_reverse_kl(credit: Credit, baseline: str) -> None:
    mdp = without_reward()
    policy, teacher = mdp.table(1), mdp.table(2)
    objective = replace(DISTILL, credit=credit, baseline=baseline)
    gradient = expected_gradient(objective, mdp, policy, group_size=2, reference=teacher)
    assert relative(gradient, descent(reverse_kl, mdp, policy, teacher)) < TIGHT


def test_without_discount_a_token_is_credited_with_its_own_kl_alone() -> None:
    mdp = without_reward()
    policy, teacher = mdp.table(1), mdp.table(2)
    objective = replace(DISTILL, credit=Credit("reward_to_go", gamma=0.0))
    gradient = expected_gradient(objective, mdp, policy, group_size=1, reference=teacher)
    assert relative(gradient, descent(own_token_kl, mdp, policy, teacher)) < TIGHT
    assert relative(gradient, descent(reverse_kl, mdp, policy, teacher)) > 0.1


def test_the_environment_reward_is_mixed_in_with_its_coefficient() -> None:
    mdp = TokenMDP(horizon=3)
    policy, teacher = mdp.table(1), mdp.table(2)
    mixed = TokenMDP(horizon=3, rewards=0.25 * mdp.rewards)
    gradient = expected_gradient(DISTILL, mixed, policy, group_size=1, reference=teacher)
    exact = 0.25 * mdp.gradient(policy) + descent(reverse_kl, mdp, policy, teacher)
    assert relative(gradient, exact) < TIGHT


def test_imitation_of_samples_has_the_gradient_of_the_forward_kl() -> None:
    count = len(TokenMDP(horizon=3).completions)
    mdp = TokenMDP(horizon=3, rewards=torch.ones(count, dtype=torch.float64))
    policy, teacher = mdp.table(1), mdp.table(2)
    summed = replace(SEQ_KD, aggregation="sequence_sum")
    gradient = expected_gradient(summed, mdp, policy, group_size=2, sampler=teacher)
    assert relative(gradient, descent(forward_kl, mdp, policy, teacher)) < TIGHT

    def per_token(mdp: TokenMDP, logits: Tensor, teacher: Tensor) -> Tensor:
        q = mdp.probabilities(teacher)
        return -(q * mdp.logprobs(logits).sum(1) / mdp.mask.sum(1)).sum()

    gradient = expected_gradient(SEQ_KD, mdp, policy, group_size=1, sampler=teacher)
    assert relative(gradient, descent(per_token, mdp, policy, teacher)) < TIGHT


def test_the_default_has_the_smallest_exact_variance() -> None:
    from rlalign.oracle import projected_moments

    mdp = without_reward(2)
    policy, teacher = mdp.table(1), mdp.table(2)
    directions = torch.eye(policy.numel(), dtype=torch.float64).reshape(-1, *policy.shape)

    def deviation(objective: Objective) -> float:
        return float(projected_moments(objective, mdp, policy, directions, group_size=2, reference=teacher)[1].norm())

    others = [replace(DISTILL, credit=Credit("trajectory")), replace(DISTILL, baseline="leave_one_out")]
    assert deviation(DISTILL) < min(deviation(objective) for objective in others)


# ---- through the learner ----


def config_of(name: str, **changes: Any) -> TrainConfig:
    """Return a configuration of a preset; `__` in the name of a change is a dot."""
    base = default_config("reverse", "tabular", name)
    return update(base, {"teacher": "big", **{key.replace("__", "."): value for key, value in changes.items()}})


def teacher_of(mdp: TokenMDP, logits: Tensor) -> LocalTeacher:
    """Return a teacher with a table's distribution at the sampling temperature."""
    policy, index = policy_of(mdp, None)
    with torch.no_grad():
        policy.table[index] = SAMPLING.temperature * logits
    return LocalTeacher(policy, "big")


def taught(policy: TabularPolicy, objective: Objective, teacher: LocalTeacher) -> Learner:
    """Return a learner whose reference policy is a teacher."""
    return Learner(
        policy, objective, LearnerConfig(micro_batch=1), sampling=SAMPLING, total_updates=1,
        generator=torch.Generator(), max_length=HORIZON, reference=teacher,
    )  # fmt: skip


def expected(config: TrainConfig, mdp: TokenMDP, teacher: Tensor, sampler: Tensor, objective: Objective) -> Tensor:
    """Return Σ over completions of the sampler's probability · the learner's ascent direction, [prefixes, V]."""
    policy, index = policy_of(mdp, None)
    scorer = teacher_of(mdp, teacher)
    p = mdp.probabilities(sampler)
    total = torch.zeros(len(mdp.prefixes), mdp.vocabulary, dtype=torch.float64)
    for row in range(len(p)):
        learner = taught(policy, objective, scorer)
        rollout = distillation.distilled(config, rollout_of(mdp, policy, [row]))
        buffer = learner.prepare(rollout, recorded=distillation.imitates(config))
        policy.zero_grad()
        learner.accumulate_gradient(buffer, buffer.plan[0])
        assert policy.table.grad is not None
        total -= p[row] * policy.table.grad[index]
    return SAMPLING.temperature * total


@pytest.mark.parametrize("coef", [0.0, 0.5])
def test_the_learner_follows_the_reverse_kl_to_its_teacher(coef: float) -> None:
    mdp = TokenMDP(horizon=HORIZON)
    policy, teacher = mdp.table(1), mdp.table(4)
    gradient = expected(config_of("distill", distill__reward_coef=coef), mdp, teacher, policy, DISTILL)
    exact = coef * mdp.gradient(policy) + descent(reverse_kl, mdp, policy, teacher)
    assert relative(gradient, exact) < 1e-5  # log-probs are float32 here


def test_the_learner_follows_the_forward_kl_on_the_samples_of_its_teacher() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    policy, teacher = mdp.table(1), mdp.table(4)
    summed = replace(SEQ_KD, aggregation="sequence_sum")
    gradient = expected(config_of("seq_kd"), mdp, teacher, teacher, summed)
    assert relative(gradient, descent(forward_kl, mdp, policy, teacher)) < 1e-5


def test_a_teacher_that_equals_the_policy_gives_no_gradient_and_no_kl() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    same = mdp.table(1)
    assert float(expected(config_of("distill"), mdp, same, same, DISTILL).norm()) < 1e-6
    policy, _ = policy_of(mdp, None)
    learner = taught(policy, DISTILL, teacher_of(mdp, same))
    rollout = rollout_of(mdp, policy, range(len(mdp.completions)))
    buffer = learner.prepare(distillation.distilled(config_of("distill"), rollout))
    assert distillation.teacher_metrics(config_of("distill"), rollout, buffer.batch.ref_logprobs) == {
        "rollout/teacher_kl": 0.0,
        "rollout/teacher_kl_token": 0.0,
    }
    # and in the exact expectation of the objective
    zero = expected_gradient(DISTILL, without_reward(), without_reward().table(1), reference=without_reward().table(1))
    assert float(zero.norm()) < 1e-12


def test_a_failed_reward_leaves_the_row_in_the_loss_unless_the_reward_is_read() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    policy, _ = policy_of(mdp, None)
    rollout = rollout_of(mdp, policy, [0, 1])
    failed = replace(rollout, valid=torch.tensor([False, True]))
    assert distillation.distilled(config_of("distill"), failed).valid.tolist() == [True, True]
    assert distillation.distilled(config_of("seq_kd"), failed).valid.tolist() == [True, True]
    mixed = config_of("distill", distill__reward_coef=0.5)
    assert distillation.distilled(mixed, failed).valid.tolist() == [False, True]


# ---- planted errors; the comparison must detect each ----


def the_initial_policy_is_the_teacher(m: pytest.MonkeyPatch) -> None:
    real = Preparation._score_reference

    def score(self: Preparation, reference: Any, *arguments: Any) -> Any:
        return real(self, self.policy, *arguments)

    m.setattr(Preparation, "_score_reference", score)


def the_teacher_repels(m: pytest.MonkeyPatch) -> None:
    real = LocalTeacher.reference_logprobs
    m.setattr(LocalTeacher, "reference_logprobs", lambda self, *a: -real(self, *a))


def the_reward_is_not_scaled(m: pytest.MonkeyPatch) -> None:
    m.setattr(distillation, "distilled", lambda config, rollout: rollout)


def the_teacher_has_temperature_one(m: pytest.MonkeyPatch) -> None:
    from rlalign.types import Sampling

    real = TabularPolicy.score
    wrong = lambda self, t, n, mask, s, **k: real(self, t, n, mask, s if self.table.requires_grad else Sampling(), **k)  # noqa: E731
    m.setattr(TabularPolicy, "score", wrong)


@pytest.mark.parametrize(
    "mutant",
    [
        the_initial_policy_is_the_teacher,
        the_teacher_repels,
        the_reward_is_not_scaled,
        the_teacher_has_temperature_one,
    ],
)
def test_an_error_in_distillation_is_detected(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    mutant(monkeypatch)
    mdp = TokenMDP(horizon=HORIZON)
    policy, teacher = mdp.table(1), mdp.table(4)
    gradient = expected(config_of("distill"), mdp, teacher, policy, DISTILL)
    assert relative(gradient, descent(reverse_kl, mdp, policy, teacher)) > 1e-2

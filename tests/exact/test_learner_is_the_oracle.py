"""The expectation of the learner's own gradient, over every group, equals the oracle's expected gradient.

The oracle calls the objective's functions on enumerated batches. Here the same groups take the path of a run: a
rollout's tensors, `Learner.prepare` (reference, values, old log-probs, greedy baselines, the plan), micro-batches and
the one division. The temperature is not 1, so that a learner that scores another distribution fails.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.algorithms import algorithm, sampling_presets
from rlalign.config.schema import LearnerConfig
from rlalign.objective import Credit, Objective, Value
from rlalign.oracle import EOS, TokenMDP, expected_gradient
from rlalign.policies.tabular import TabularPolicy
from rlalign.rollout.collect import Rollout
from rlalign.training import learner as learner_module
from rlalign.training.learner import Learner
from rlalign.types import Sampling, Task

START = 1
HORIZON = 2
SAMPLING = Sampling(temperature=0.8)


class ThreeTokens:
    """A tokenizer of three tokens: EOS and two others."""

    vocab_size, eos_id, pad_id = 3, EOS, EOS


def policy_of(mdp: TokenMDP, values: Tensor | None) -> tuple[TabularPolicy, Tensor]:
    """Return a policy with the enumerated table's distribution at the temperature, and the rows of its prefixes."""
    policy = TabularPolicy(ThreeTokens(), horizon=HORIZON + 1, value_head=values is not None)  # type: ignore[arg-type]  # a tokenizer of this test
    rows = policy.rows(torch.tensor([[START, *p, *[0] * (HORIZON - len(p))] for p in mdp.prefixes]))
    index = torch.tensor([int(rows[i, 1 + len(p)]) for i, p in enumerate(mdp.prefixes)])
    with torch.no_grad():
        policy.table[index] = SAMPLING.temperature * mdp.table(1)
        policy.reference[index] = SAMPLING.temperature * mdp.table(2)
        if values is not None and policy.values is not None:
            policy.values[index] = values
    return policy, index


def rollout_of(mdp: TokenMDP, policy: TabularPolicy, rows: Sequence[int]) -> Rollout:
    """Return a rollout of the given completions."""
    index = torch.tensor(rows)
    n = len(rows)
    tokens = torch.cat([torch.full((n, 1), START), mdp.tokens[index]], 1)
    mask = torch.cat([torch.zeros(n, 1, dtype=torch.bool), mdp.mask[index]], 1)
    lengths = 1 + mdp.mask[index].sum(1)
    with torch.no_grad():
        logprobs = policy.score(tokens, lengths, mask, SAMPLING).logprobs
    rewards = torch.zeros(tokens.shape, dtype=torch.float64)
    rewards[torch.arange(n), lengths - 1] = mdp.rewards[index]
    return Rollout(
        tokens=tokens, lengths=lengths, action_mask=mask, sampler_logprobs=logprobs, rewards=rewards,
        valid=torch.ones(n, dtype=torch.bool), components={}, group_ids=torch.zeros(n, dtype=torch.int64),
        terminated=mdp.terminated[index], truncated=~mdp.terminated[index],
        tasks=[Task("")] * n, prompts=[""] * n, completions=[""] * n, messages=[[]] * n, extra=[{}] * n,
    )  # fmt: skip


def learner_of(policy: TabularPolicy, objective: Objective, **settings: Any) -> Learner:
    """Return a learner of the policy with the sampling settings of this file."""
    return Learner(
        policy, objective, LearnerConfig(**settings), sampling=SAMPLING, total_updates=1,
        generator=torch.Generator(), max_length=HORIZON,
    )  # fmt: skip


def expected(objective: Objective, mdp: TokenMDP, values: Tensor | None, group_size: int, **settings: Any) -> Tensor:
    """Return Σ over groups of probability · the learner's ascent direction, [prefixes, V]."""
    policy, index = policy_of(mdp, values)
    p = mdp.probabilities(mdp.table(1)).detach()
    total = torch.zeros(len(mdp.prefixes), mdp.vocabulary, dtype=torch.float64)
    for rows in itertools.combinations_with_replacement(range(len(p)), group_size):
        learner = learner_of(policy, objective, micro_batch=1, **settings)
        rollout = rollout_of(mdp, policy, rows)
        greedy = torch.full((group_size,), mdp.greedy_reward(mdp.table(1)), dtype=torch.float64)
        buffer = learner.prepare(rollout, greedy_rewards=greedy if objective.needs_greedy else None)
        policy.zero_grad()
        learner.accumulate_gradient(buffer, buffer.plan[0])
        orders = math.factorial(group_size) / math.prod(math.factorial(k) for k in Counter(rows).values())
        if policy.table.grad is not None:
            total -= orders * p[list(rows)].prod() * policy.table.grad[index]
    # d/d logits at the temperature
    return SAMPLING.temperature * total


def learner_and_oracle(objective: Objective, group_size: int = 2, **settings: Any) -> tuple[Tensor, Tensor]:
    """Return the expected gradient of the learner and of the oracle."""
    mdp = TokenMDP(horizon=HORIZON)
    noisy = mdp.state_values(mdp.table(1)) + 0.3 * mdp.table(3)[:, 0]
    values = noisy.float().double() if objective.needs_values else None
    # the value loss has no gradient to the policy's table
    learner = expected(objective, mdp, values, group_size, **settings)
    oracle = expected_gradient(
        objective, mdp, mdp.table(1), group_size=group_size, values=values,
        reference=mdp.table(2) if objective.needs_reference else None,
    )  # fmt: skip
    return learner, oracle


def relative(a: Tensor, b: Tensor) -> float:
    """Return the relative error |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def preset(name: str) -> Objective:
    """Return a preset's objective without value pretraining, so that the policy learns in the first step."""
    objective = algorithm(name).objective
    return replace(objective, value=replace(objective.value, pretrain_steps=0))


@pytest.mark.parametrize("name", sampling_presets())
def test_expected_gradient_of_the_learner_equals_the_oracle(name: str) -> None:
    learner, oracle = learner_and_oracle(preset(name), 3 if name in ("rloo", "grpo") else 2)
    assert relative(learner, oracle) < 1e-5  # log-probs are float32 here


@pytest.mark.parametrize("choice", ["sampler", "recompute"])
def test_old_logprobs_from_either_source_give_the_same_expectation(choice: str) -> None:
    learner, oracle = learner_and_oracle(preset("gspo"), old_logprobs=choice)
    assert relative(learner, oracle) < 1e-5


def test_a_truncated_episode_is_bootstrapped_with_the_value_of_its_last_state() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    objective = Objective(baseline="value", value=Value("head"), credit=Credit("gae", lambda_actor=1.0))
    policy, _ = policy_of(mdp, mdp.table(3)[:, 0])
    assert policy.values is not None
    with torch.no_grad():
        policy.values += 1.0  # including contexts after the last action
    truncated_row = len(mdp.completions) - 1
    learner = learner_of(policy, objective)
    batch = learner.prepare(rollout_of(mdp, policy, [0, truncated_row])).batch
    assert batch.returns is not None
    assert batch.old_values is not None
    assert batch.final_values is not None
    terminated_return = mdp.rewards[0].item()
    truncated_return = mdp.rewards[truncated_row].item() + batch.final_values[1].item()
    assert batch.returns[0, 1].item() == pytest.approx(terminated_return, abs=1e-6)
    assert batch.final_values[1].item() == pytest.approx(1.0)
    assert batch.returns[1, 2].item() == pytest.approx(truncated_return, abs=1e-6)


# ---- planted errors in the training path; the comparison must detect each ----


def no_temperature(m: pytest.MonkeyPatch) -> None:
    real = TabularPolicy.score
    m.setattr(TabularPolicy, "score", lambda self, t, n, mask, sampling, **k: real(self, t, n, mask, Sampling(), **k))


def masked_eos(m: pytest.MonkeyPatch) -> None:
    real = Learner.prepare

    def prepare(self: Learner, rollout: Rollout, **k: Any) -> Any:
        return real(self, replace(rollout, action_mask=rollout.action_mask & (rollout.tokens != EOS)), **k)

    m.setattr(Learner, "prepare", prepare)


def first_token_dropped(m: pytest.MonkeyPatch) -> None:
    real = Learner.prepare

    def prepare(self: Learner, rollout: Rollout, **k: Any) -> Any:
        mask = rollout.action_mask.clone()
        mask[:, 1] &= rollout.lengths == 2
        return real(self, replace(rollout, action_mask=mask), **k)

    m.setattr(Learner, "prepare", prepare)


def divided_by_each_part(m: pytest.MonkeyPatch) -> None:
    real = learner_module.policy_loss

    def policy_loss(*args: Any, **k: Any) -> Any:
        part = real(*args, **k)
        return replace(part, total=part.total / part.count.clamp(min=1))

    m.setattr(learner_module, "policy_loss", policy_loss)


def ascends_the_loss(m: pytest.MonkeyPatch) -> None:
    real = learner_module.policy_loss
    m.setattr(learner_module, "policy_loss", lambda *a, **k: replace(p := real(*a, **k), total=-p.total))


@pytest.mark.parametrize(
    "mutant", [no_temperature, masked_eos, first_token_dropped, divided_by_each_part, ascends_the_loss]
)
def test_an_error_in_the_training_path_is_detected(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    mutant(monkeypatch)
    learner, oracle = learner_and_oracle(preset("cispo"))
    assert relative(learner, oracle) > 1e-2

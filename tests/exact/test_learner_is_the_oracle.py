"""The expectation of the learner's own gradient, over every group there is, is what the oracle says of the preset.

The oracle calls the objective's functions on enumerated batches. Here the same groups go through what a run goes
through: a rollout's tensors, `Learner.prepare` (reference, values, old log-probs, greedy baselines, the plan),
micro-batches and the one division. At a temperature, so that a learner that scores another distribution is seen.
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

from rlalign.algorithms import ALGORITHMS, algorithm
from rlalign.config.schema import LearnerConfig
from rlalign.objective import Credit, Objective, Value
from rlalign.oracle import EOS, TokenMDP, expected_gradient
from rlalign.policies.tabular import TabularPolicy
from rlalign.rollout.collect import Rollout
from rlalign.training import learner as learner_module
from rlalign.training.learner import Learner
from rlalign.types import Sampling, Task

START, HORIZON = 1, 2
AT = Sampling(temperature=0.8)


class Three:
    """Three tokens: EOS and two to say."""

    vocab_size, eos_id, pad_id = 3, EOS, EOS


def policy_of(mdp: TokenMDP, values: Tensor | None) -> tuple[TabularPolicy, Tensor]:
    """A policy whose distribution at the temperature is the enumerated table's, and where its rows stand."""
    policy = TabularPolicy(Three(), horizon=HORIZON + 1, value_head=values is not None)  # type: ignore[arg-type]  # a tokenizer of the test's own
    rows = policy.rows(torch.tensor([[START, *p, *[0] * (HORIZON - len(p))] for p in mdp.prefixes]))
    where = torch.tensor([int(rows[i, 1 + len(p)]) for i, p in enumerate(mdp.prefixes)])
    with torch.no_grad():
        policy.table[where] = AT.temperature * mdp.table(1)
        policy.reference[where] = AT.temperature * mdp.table(2)
        if values is not None and policy.values is not None:
            policy.values[where] = values
    return policy, where


def rollout_of(mdp: TokenMDP, policy: TabularPolicy, rows: Sequence[int]) -> Rollout:
    """These completions, as if they had been drawn."""
    index, n = torch.tensor(rows), len(rows)
    tokens = torch.cat([torch.full((n, 1), START), mdp.tokens[index]], 1)
    mask = torch.cat([torch.zeros(n, 1, dtype=torch.bool), mdp.mask[index]], 1)
    lengths = 1 + mdp.mask[index].sum(1)
    with torch.no_grad():
        drawn = policy.score(tokens, lengths, mask, AT).logprobs
    rewards = torch.zeros(tokens.shape, dtype=torch.float64)
    rewards[torch.arange(n), lengths - 1] = mdp.rewards[index]
    return Rollout(
        tokens=tokens, lengths=lengths, action_mask=mask, sampler_logprobs=drawn, rewards=rewards,
        valid=torch.ones(n, dtype=torch.bool), components={}, group_ids=torch.zeros(n, dtype=torch.int64),
        terminated=mdp.terminated[index], truncated=~mdp.terminated[index],
        tasks=[Task("")] * n, prompts=[""] * n, completions=[""] * n,
    )  # fmt: skip


def learner_of(policy: TabularPolicy, objective: Objective, **settings: Any) -> Learner:
    return Learner(
        policy, objective, LearnerConfig(**settings), sampling=AT, total_updates=1,
        generator=torch.Generator(), max_length=HORIZON,
    )  # fmt: skip


def expected(objective: Objective, mdp: TokenMDP, values: Tensor | None, group_size: int, **settings: Any) -> Tensor:
    """Σ over groups of probability · the learner's ascent direction, [prefixes, V]."""
    policy, where = policy_of(mdp, values)
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
            total -= orders * p[list(rows)].prod() * policy.table.grad[where]
    return AT.temperature * total


def both(objective: Objective, group_size: int = 2, **settings: Any) -> tuple[Tensor, Tensor]:
    mdp = TokenMDP(horizon=HORIZON)
    noisy = mdp.state_values(mdp.table(1)) + 0.3 * mdp.table(3)[:, 0]
    values = noisy.float().double() if objective.needs_values else None
    # the value's own loss does not reach the policy's table
    ours = expected(objective, mdp, values, group_size, **settings)
    theirs = expected_gradient(
        objective, mdp, mdp.table(1), group_size=group_size, values=values,
        reference=mdp.table(2) if objective.needs_reference else None,
    )  # fmt: skip
    return ours, theirs


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def preset(name: str) -> Objective:
    """A preset from its first step on: the policy learns, and nothing is drawn again."""
    found = algorithm(name).objective
    value = replace(found.value, pretrain_steps=0)
    return replace(found, value=value)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_the_learners_expected_gradient_is_the_oracles(name: str) -> None:
    ours, theirs = both(preset(name), 3 if name in ("rloo", "grpo") else 2)
    assert relative(ours, theirs) < 1e-5  # log-probs are float32 here


@pytest.mark.parametrize("choice", ["sampler", "recompute"])
def test_so_it_is_with_old_log_probs_however_they_are_had(choice: str) -> None:
    ours, theirs = both(preset("gspo"), old_logprobs=choice)
    assert relative(ours, theirs) < 1e-5


def test_a_truncated_episode_is_bootstrapped_by_the_value_of_its_last_state() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    objective = Objective(baseline="value", value=Value("head"), credit=Credit("gae", lambda_actor=1.0))
    policy, _ = policy_of(mdp, mdp.table(3)[:, 0])
    assert policy.values is not None
    with torch.no_grad():
        policy.values += 1.0  # also of the contexts that no action follows
    cut = len(mdp.completions) - 1
    learner = learner_of(policy, objective)
    batch = learner.prepare(rollout_of(mdp, policy, [0, cut])).batch
    assert batch.returns is not None
    assert batch.old_values is not None
    assert batch.final_values is not None
    ended, truncated = mdp.rewards[0].item(), mdp.rewards[cut].item() + batch.final_values[1].item()
    assert batch.returns[0, 1].item() == pytest.approx(ended, abs=1e-6)
    assert batch.final_values[1].item() == pytest.approx(1.0)
    assert batch.returns[1, 2].item() == pytest.approx(truncated, abs=1e-6)


# ---- planted errors in the training path; each must be seen ----


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
def test_an_error_in_the_training_path_is_seen(monkeypatch: pytest.MonkeyPatch, mutant: Any) -> None:
    mutant(monkeypatch)
    ours, theirs = both(preset("cispo"))
    assert relative(ours, theirs) > 1e-2

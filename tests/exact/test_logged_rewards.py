"""Importance weights of logged rewards: the expected gradient over another policy's completions is the exact one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlalign.objective import Batch, Objective, compute_advantages, policy_loss
from rlalign.objective.spec import OffPolicy
from rlalign.oracle.mdp import TokenMDP

MDP = TokenMDP(horizon=3)
POLICY, RECORDED = MDP.table(seed=1), MDP.table(seed=2)


def logprobs_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the log-prob of each token of each completion, float64 [M, T]; 0 past the end."""
    table = logits.log_softmax(-1)
    return torch.where(MDP.mask, table[MDP.prefix, MDP.tokens], 0.0)


def expected_gradient(objective: Objective) -> torch.Tensor:
    """Return the expectation over the recorded policy of the estimator's gradient, [prefixes, V]."""
    logits = POLICY.clone().requires_grad_()
    recorded = logprobs_of(RECORDED)
    batch = Batch(
        action_mask=MDP.mask,
        rewards=MDP.rewards,
        group_ids=torch.arange(len(MDP.tokens)),
        terminated=MDP.terminated,
        truncated=~MDP.terminated,
        sampler_logprobs=recorded,
        weights=recorded.sum(1).exp(),
    )
    batch = replace(compute_advantages(objective, batch), logprobs=logprobs_of(logits))
    loss = policy_loss(objective, batch)  # the sum over all completions, each with its probability
    (gradient,) = torch.autograd.grad(-loss.total, logits)
    return gradient


def test_the_weights_of_sequences_give_the_gradient_of_the_expected_reward() -> None:
    weights = OffPolicy("tis", "sequence", high=1e30)
    assert torch.allclose(expected_gradient(Objective(off_policy=weights)), MDP.gradient(POLICY), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "weights", [OffPolicy(), OffPolicy("tis", "token", high=1e30), OffPolicy("tis", "sequence", high=1.0)]
)
def test_other_weights_are_biased(weights) -> None:
    assert not torch.allclose(expected_gradient(Objective(off_policy=weights)), MDP.gradient(POLICY), atol=1e-3, rtol=0)

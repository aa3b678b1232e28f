"""PPO against an independent implementation of the paper's formulas, in plain Python float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlalign.algorithms import algorithm
from rlalign.objective import (
    Batch,
    Credit,
    Objective,
    ObjectiveState,
    Value,
    compute_advantages,
    policy_loss,
    value_loss,
)

N, T = 6, 8


def numbers(seed: int, *, messages: bool = True) -> Batch:
    """Return a random batch; with `messages`, its masks have holes."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    mask = torch.rand(N, T, generator=g) < (0.6 if messages else 2.0)  # holes are environment messages
    mask &= torch.arange(T) < torch.randint(2, T + 1, (N, 1), generator=g)
    mask[:, 0] = True
    terminated = torch.arange(N) % 2 == 0
    old = normal(N, T) - 1.5
    return Batch(
        action_mask=mask,
        rewards=normal(N, T),
        group_ids=torch.arange(N),
        terminated=terminated,
        truncated=~terminated,
        logprobs=(old + 0.3 * normal(N, T)).requires_grad_(),
        old_logprobs=old,
        sampler_logprobs=old,
        ref_logprobs=old + 0.3 * normal(N, T),
        values=normal(N, T).requires_grad_(),
        old_values=normal(N, T),
        final_values=normal(N),
        max_length=T,
    )


def gae_by_sums(rewards: list[float], values: list[float], after: float, gamma: float, lam: float) -> list[float]:
    """Return A_t = Σ_k (gamma lambda)^k delta_(t+k), with each sum written out (1506.02438, equation 16)."""
    following = [*values[1:], after]
    delta = [r + gamma * f - v for r, f, v in zip(rewards, following, values, strict=True)]
    n = len(delta)
    return [math.fsum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("gamma", "lam", "critic"), [(1.0, 0.95, 0.95), (0.9, 0.8, 1.0), (0.99, 0.0, 0.5)])
def test_gae_equals_its_definition(seed: int, gamma: float, lam: float, critic: float) -> None:
    b = numbers(seed)
    objective = Objective(
        baseline="value", value=Value("head"), credit=Credit("gae", gamma, lam, critic, bootstrap=True)
    )
    batch = compute_advantages(objective, b)
    assert batch.advantages is not None
    assert batch.returns is not None
    assert b.old_values is not None
    assert b.final_values is not None
    for i in range(N):
        on = b.action_mask[i]
        after = 0.0 if b.terminated[i] else float(b.final_values[i])
        rewards, values = b.rewards[i][on].tolist(), b.old_values[i][on].tolist()
        expected = gae_by_sums(rewards, values, after, gamma, lam)
        assert batch.advantages[i][on].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert (batch.advantages[i][~on] == 0).all()
        targets = [a + v for a, v in zip(gae_by_sums(rewards, values, after, gamma, critic), values, strict=True)]
        assert batch.returns[i][on].tolist() == pytest.approx(targets, rel=1e-12, abs=1e-12)


def test_lambda_grows_with_the_length() -> None:
    b = numbers(1, messages=False)
    objective = Objective(
        baseline="value", value=Value("head"), credit=Credit("gae", 1.0, 0.5, 1.0, length_alpha=0.4, bootstrap=False)
    )
    batch = compute_advantages(objective, b)
    assert batch.advantages is not None
    assert b.old_values is not None
    for i in range(N):
        on = b.action_mask[i]
        lam = max(0.0, 1 - 1 / (0.4 * int(on.sum())))
        expected = gae_by_sums(b.rewards[i][on].tolist(), b.old_values[i][on].tolist(), 0.0, 1.0, lam)
        assert batch.advantages[i][on].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_policy_and_value_loss_equal_the_formulas(seed: int) -> None:
    ppo = algorithm("ppo").objective
    state = ObjectiveState(kl_coef=0.07)
    b = compute_advantages(ppo, numbers(seed), state)
    loss, critic = policy_loss(ppo, b, state), value_loss(ppo, b)
    tokens = [(i, t) for i in range(N) for t in range(T) if b.action_mask[i, t]]

    def at(x: torch.Tensor | None, i: int, t: int) -> float:
        assert x is not None
        return float(x[i, t].detach())

    raw: dict[tuple[int, int], float] = {}
    targets: dict[tuple[int, int], float] = {}
    for i in range(N):
        columns = [t for j, t in tokens if j == i]
        rewards = [at(b.rewards, i, t) - 0.07 * (at(b.old_logprobs, i, t) - at(b.ref_logprobs, i, t)) for t in columns]
        values = [at(b.old_values, i, t) for t in columns]
        for t, a, v in zip(columns, gae_by_sums(rewards, values, 0.0, 1.0, 0.95), values, strict=True):
            raw[i, t], targets[i, t] = a, a + v
    mean = math.fsum(raw.values()) / len(raw)
    std = math.sqrt(math.fsum((a - mean) ** 2 for a in raw.values()) / (len(raw) - 1))
    clipped, errors = [], []
    for i, t in tokens:
        a = (raw[i, t] - mean) / (std + ppo.scale_eps)
        rho = math.exp(at(b.logprobs, i, t) - at(b.old_logprobs, i, t))
        clipped.append(-min(rho * a, min(max(rho, 0.8), 1.2) * a))
        v, old, target = at(b.values, i, t), at(b.old_values, i, t), targets[i, t]
        near = old + min(max(v - old, -0.2), 0.2)
        errors.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
    assert (loss.total / loss.count).item() == pytest.approx(math.fsum(clipped) / len(tokens), rel=1e-12)
    assert (critic.total / critic.count).item() == pytest.approx(0.1 * math.fsum(errors) / len(tokens), rel=1e-12)


def test_beta_adapts_as_in_the_paper() -> None:
    ppo = replace(algorithm("ppo").objective, kl=replace(algorithm("ppo").objective.kl, target=2.0, horizon=100))
    b = numbers(0)
    assert b.old_logprobs is not None
    assert b.ref_logprobs is not None
    state = ObjectiveState.start(ppo)
    state.update(ppo, b)
    kl = float(((b.old_logprobs - b.ref_logprobs) * b.action_mask).sum(1).mean())
    error = min(max(kl / 2.0 - 1, -0.2), 0.2)
    assert state.kl_coef == pytest.approx(ppo.kl.coef * (1 + error * N / 100), rel=1e-12)


def test_only_the_value_loss_has_a_gradient_to_the_values() -> None:
    ppo = algorithm("ppo").objective
    b = compute_advantages(ppo, numbers(0))
    assert b.logprobs is not None
    assert b.values is not None
    assert torch.autograd.grad(value_loss(ppo, b).total, b.values, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(policy_loss(ppo, b).total, b.values, allow_unused=True)[0] is None

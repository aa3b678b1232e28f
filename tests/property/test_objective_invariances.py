"""Invariances of each preset: padding, micro-batches, and the order of samples and groups have no effect.

Hypothesis draws examples with a fixed seed, so that the tests are deterministic.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlalign.algorithms import algorithm, sampling_presets
from rlalign.objective import Batch, Objective, compute_advantages, loss_count, policy_loss, value_count, value_loss

GROUPS, SIZE, WIDTH = 3, 4, 6
N = GROUPS * SIZE
FEW = settings(max_examples=8, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def numbers(seed: int, *, failed: bool = True, dtype: torch.dtype = torch.float64) -> Batch:
    """Return a batch with holes in the mask, unequal lengths, a failed row and groups of equal and unequal rewards."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=g)

    lengths = torch.randint(1, WIDTH + 1, (N, 1), generator=g)
    mask = (torch.arange(WIDTH) < lengths) & (torch.rand(N, WIDTH, generator=g) < 0.8)
    mask[:, 0] = True
    rewards = torch.randint(0, 3, (N,), generator=g).to(dtype)
    rewards[:SIZE] = 1.0
    truncated = torch.rand(N, generator=g) < 0.3
    valid = torch.ones(N, dtype=torch.bool)
    valid[int(torch.randint(0, N, (1,), generator=g))] = not failed
    base = normal(N, WIDTH) * 0.4 - 1.5
    return Batch(
        action_mask=mask,
        rewards=rewards,
        group_ids=torch.arange(GROUPS).repeat_interleave(SIZE),
        terminated=~truncated,
        truncated=truncated,
        logprobs=(base + 0.3 * normal(N, WIDTH)).requires_grad_(),
        old_logprobs=base,
        sampler_logprobs=base + 0.05 * normal(N, WIDTH),
        ref_logprobs=base + 0.3 * normal(N, WIDTH),
        values=normal(N, WIDTH).requires_grad_(),
        old_values=normal(N, WIDTH),
        final_values=normal(N),
        entropies=normal(N, WIDTH).abs(),
        greedy_rewards=rewards.roll(1),
        valid=valid,
        max_length=WIDTH + 2,
    )


def gradients(objective: Objective, b: Batch, wrt: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (policy loss, its gradient, value loss, its gradient) with respect to the leaves of `wrt`."""
    assert wrt.logprobs is not None
    assert wrt.values is not None
    policy = policy_loss(objective, b)
    loss = policy.total / policy.count.clamp(min=1)
    gradient = torch.autograd.grad(loss, wrt.logprobs, retain_graph=True)[0]
    critic = value_loss(objective, b)
    critic_loss = critic.total / critic.count.clamp(min=1)
    critic_gradient = torch.autograd.grad(critic_loss, wrt.values, retain_graph=True)[0]
    return loss, gradient, critic_loss, critic_gradient


def assert_same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def padded(b: Batch, left: int, right: int, junk: float) -> Batch:
    """Return the batch with columns of junk on both sides, and junk in its own masked columns."""
    tensors = {}
    for name, x in b.tensors().items():
        if x.ndim == 2 and x.is_floating_point():
            x = torch.nn.functional.pad(x.where(b.action_mask, junk), (left, right), value=junk)
        elif x.ndim == 2:
            x = torch.nn.functional.pad(x, (left, right))
        tensors[name] = x
    return replace(b, **tensors)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("name", sampling_presets())
@FEW
@given(
    seed=SEEDS, left=st.integers(0, 3), right=st.integers(0, 3), junk=st.sampled_from([0.0, 7.0, -1e30, float("inf")])
)
def test_padding_has_no_effect(name: str, seed: int, left: int, right: int, junk: float) -> None:
    objective, b = algorithm(name).objective, numbers(seed)
    plain = gradients(objective, compute_advantages(objective, b), b)
    wide = gradients(objective, compute_advantages(objective, padded(b, left, right, junk)), b)
    assert_same(plain, wide)
    gradient = wide[1]
    assert (gradient[~b.action_mask] == 0).all()
    assert b.valid is not None
    assert (gradient[~b.valid] == 0).all()


@pytest.mark.parametrize("name", sampling_presets())
@FEW
@given(seed=SEEDS, cuts=st.lists(st.integers(1, N - 1), max_size=5, unique=True))
def test_sums_over_micro_batches_equal_the_batch(name: str, seed: int, cuts: list[int]) -> None:
    objective, b = algorithm(name).objective, numbers(seed)
    batch = compute_advantages(objective, b)
    plain = gradients(objective, batch, b)
    edges = [0, *sorted(cuts), N]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    parts = [batch[order[i:j]] for i, j in pairwise(edges)]
    assert b.logprobs is not None
    assert b.values is not None
    losses = [policy_loss(objective, part) for part in parts]
    critics = [value_loss(objective, part) for part in parts]
    loss = sum(x.total for x in losses) / loss_count(objective, batch).clamp(min=1)
    critic_loss = sum(x.total for x in critics) / value_count(batch).clamp(min=1)
    gradient = torch.autograd.grad(loss, b.logprobs, retain_graph=True)[0]
    critic_gradient = torch.autograd.grad(critic_loss, b.values, retain_graph=True)[0]
    assert_same(plain, (loss, gradient, critic_loss, critic_gradient))
    assert sum(float(x.count) for x in losses) == float(loss_count(objective, batch))
    for key, (summed, n) in policy_loss(objective, batch).metrics.items():
        assert float(sum(x.metrics[key][0] for x in losses)) == pytest.approx(float(summed), rel=1e-9, abs=1e-9)
        assert float(sum(x.metrics[key][1] for x in losses)) == pytest.approx(float(n))


@pytest.mark.parametrize("name", sampling_presets())
@FEW
@given(seed=SEEDS)
def test_the_order_of_samples_and_groups_has_no_effect(name: str, seed: int) -> None:
    objective, b = algorithm(name).objective, numbers(seed)
    plain = gradients(objective, compute_advantages(objective, b), b)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    shuffled = b[order]
    relabeled = replace(shuffled, group_ids=100 - 7 * shuffled.group_ids)
    assert_same(plain, gradients(objective, compute_advantages(objective, relabeled), b))


@pytest.mark.parametrize("name", sampling_presets())
@FEW
@given(seed=SEEDS, junk=st.sampled_from([0.0, 1e6, float("nan"), float("inf")]))
def test_a_failed_reward_has_no_effect(name: str, seed: int, junk: float) -> None:
    objective, b = algorithm(name).objective, numbers(seed)
    assert b.valid is not None
    plain = gradients(objective, compute_advantages(objective, b), b)
    assert b.rewards.ndim == 1
    with_junk = replace(b, rewards=b.rewards.where(b.valid, junk))
    assert_same(plain, gradients(objective, compute_advantages(objective, with_junk), b))
    without = b[b.valid]
    assert_same(plain, gradients(objective, compute_advantages(objective, without), b))


@pytest.mark.parametrize("name", sampling_presets())
@FEW
@given(seed=SEEDS)
def test_equal_rewards_have_exactly_zero_advantages_under_a_group_baseline(name: str, seed: int) -> None:
    objective = algorithm(name).objective
    if objective.baseline not in ("group_mean", "leave_one_out") or objective.needs_reference:
        return
    if objective.filter.overlong or objective.scale == "whiten":
        return
    b = numbers(seed, failed=False)
    b = replace(b, rewards=torch.full_like(b.rewards, 0.1))
    advantages = compute_advantages(objective, b).advantages
    assert advantages is not None
    assert (advantages == 0).all()


@pytest.mark.parametrize("name", sampling_presets())
def test_float32_agrees_with_float64(name: str) -> None:
    objective = algorithm(name).objective
    b = numbers(11)
    single = {n: x.detach().float() if x.is_floating_point() else x for n, x in b.tensors().items()}
    single["logprobs"].requires_grad_()
    single["values"].requires_grad_()
    s = Batch(**single, max_length=b.max_length)  # type: ignore[arg-type]  # fields by name
    for x, y in zip(
        gradients(objective, compute_advantages(objective, b), b),
        gradients(objective, compute_advantages(objective, s), s),
        strict=True,
    ):
        torch.testing.assert_close(x, y.double(), rtol=1e-4, atol=1e-5)

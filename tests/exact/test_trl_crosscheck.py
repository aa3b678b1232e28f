"""Losses and their gradients against the loss functions of the installed TRL, called on the same numbers.

The trainers' `_compute_loss` is called with a stub that holds only the settings it reads; log-probs come from a leaf
tensor instead of a model.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlalign.algorithms import algorithm
from rlalign.objective import KL, Batch, Objective, OffPolicy, Trust, compute_advantages, policy_loss

trl = pytest.importorskip("trl")

N, T, G = 8, 7, 4


class _Accelerator:
    num_processes = 1
    sync_gradients = False

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def reduce(self, x: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        return x


def numbers(seed: int) -> Batch:
    """Return a random batch with groups of G completions of unequal length."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    lengths = torch.randint(1, T + 1, (N,), generator=g)
    lengths[0] = T
    base = -1.5 + 0.5 * normal(N, T)
    return Batch(
        action_mask=torch.arange(T) < lengths[:, None],
        rewards=normal(N).abs(),
        group_ids=torch.arange(N) // G,
        terminated=torch.ones(N, dtype=torch.bool),
        truncated=torch.zeros(N, dtype=torch.bool),
        logprobs=(base + 0.25 * normal(N, T)).requires_grad_(),
        old_logprobs=base,
        sampler_logprobs=base + 0.1 * normal(N, T),
        ref_logprobs=base + 0.4 * normal(N, T),
        entropies=normal(N, T).abs(),
        max_length=T + 2,
    )


def trl_loss(b: Batch, loss_type: str, *, level: str = "token", beta: float = 0.0, **settings: Any) -> torch.Tensor:
    """Return TRL's GRPO loss of a batch."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    args = SimpleNamespace(
        use_bias_correction_kl=settings.pop("bias_correction", False),
        delta=settings.pop("delta", None),
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        steps_per_generation=1,
    )
    trainer = SimpleNamespace(
        args=args,
        accelerator=_Accelerator(),
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=settings.pop("epsilon_low", 0.2),
        epsilon_high=settings.pop("epsilon_high", 0.2),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=settings.pop("off_policy_mask_threshold", None),
        use_vllm="importance_sampling_ratio" in settings,
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        max_completion_length=b.max_length,
        _metrics={"train": defaultdict(list)},
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        _get_per_token_logps_and_entropies=lambda *a, **k: (b.logprobs, b.entropies, None),
    )
    ids = torch.zeros(N, T, dtype=torch.int64)
    mask = b.action_mask.double()
    assert b.advantages is not None
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(N, 1),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": b.advantages[:, 0],
        "old_per_token_logps": b.old_logprobs,
        "ref_per_token_logps": b.ref_logprobs,
        "sampling_per_token_logps": b.sampler_logprobs,
        "num_items_in_batch": mask.sum(),
        **settings,
    }
    loss: torch.Tensor = GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss


def assert_same(objective: Objective, b: Batch, other: torch.Tensor) -> None:
    """Compare the loss of the objective, and its gradient to the log-probs, with another loss."""
    loss = policy_loss(objective, b)
    ours = loss.total / loss.count
    assert b.logprobs is not None
    torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-12)
    gradient = torch.autograd.grad(ours, b.logprobs, retain_graph=True)[0]
    other_gradient = torch.autograd.grad(other, b.logprobs, retain_graph=True)[0]
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-8, atol=1e-12)
    assert gradient.abs().sum() > 0


def plain(name: str) -> Objective:
    """Return a preset's objective without the filters that TRL applies outside of its loss."""
    objective = algorithm(name).objective
    return replace(objective, filter=replace(objective.filter, dynamic_sampling=False, overlong=0.0))


SEEDS = (0, 1, 2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {"loss_type": "grpo", "beta": 0.04}),
        ("dr_grpo", {"loss_type": "dr_grpo"}),
        ("dapo", {"loss_type": "dapo", "epsilon_high": 0.28}),
        ("cispo", {"loss_type": "cispo", "epsilon_high": 5.0}),
        ("gspo", {"loss_type": "grpo", "level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
        ("sapo", {"loss_type": "sapo"}),
        ("luspo", {"loss_type": "luspo", "level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
    ],
)
def test_preset_equals_trl(name: str, settings: dict[str, Any], seed: int) -> None:
    objective = plain(name)
    b = compute_advantages(objective, numbers(seed))
    assert_same(objective, b, trl_loss(b, **settings))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo"])
@pytest.mark.parametrize("kl", ["none", "k3", "k3 × ratio"])
def test_loss_equals_trl_at_every_level_and_kl_setting(loss_type: str, level: str, kl: str) -> None:
    aggregation = {
        "grpo": "sequence_mean",
        "sapo": "sequence_mean",
        "dr_grpo": "constant",
        "luspo": "sequence_sum",
    }.get(loss_type, "token_global")
    importance: Any = {"token": "token", "sequence": "geomean"}[level] if kl == "k3 × ratio" else "none"
    trust = {"cispo": Trust("stopgrad_cap", 1.0, 1.0), "sapo": Trust("soft_gate")}.get(loss_type, Trust("clip"))
    objective = Objective(
        baseline="group_mean",
        scale="group_std",
        ratio="token" if level == "token" else "sequence_geomean",
        trust=trust,
        aggregation=aggregation,  # type: ignore[arg-type]  # a string that is one of its kinds
        kl=KL("none" if kl == "none" else "loss", 0.1, "k3", importance=importance),
    )
    b = compute_advantages(objective, numbers(5))
    other = trl_loss(
        b,
        loss_type,
        level=level,
        beta=0.0 if kl == "none" else 0.1,
        bias_correction=kl == "k3 × ratio",
        **({"epsilon_high": 2.0} if loss_type == "cispo" else {}),
    )
    assert_same(objective, b, other)


def test_dual_clip_equals_delta_of_trl() -> None:
    objective = Objective(
        baseline="group_mean", ratio="token", trust=Trust("dual_clip", dual=1.3), aggregation="token_global"
    )
    b = compute_advantages(objective, numbers(3))
    assert_same(objective, b, trl_loss(b, "dapo", delta=1.3))


def test_sequence_mask_equals_trl() -> None:
    objective = Objective(
        baseline="group_mean", ratio="token", trust=Trust("clip"), aggregation="token_global",
        off_policy=OffPolicy("opsm", delta=0.01),
    )  # fmt: skip
    b = compute_advantages(objective, numbers(4))
    assert_same(objective, b, trl_loss(b, "dapo", off_policy_mask_threshold=0.01))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["tis", "mis"])
def test_importance_weights_equal_trl(kind: str, level: str) -> None:
    objective = Objective(
        baseline="group_mean", ratio="token", trust=Trust("clip"), aggregation="token_global",
        off_policy=OffPolicy(kind, level, 0.9, 1.1),  # type: ignore[arg-type]  # a string that is one of its kinds
    )  # fmt: skip
    b = compute_advantages(objective, numbers(4))
    assert b.old_logprobs is not None
    assert b.sampler_logprobs is not None
    log_w = (b.old_logprobs - b.sampler_logprobs) * b.action_mask
    w = log_w.exp() if level == "token" else log_w.sum(1, keepdim=True).exp()
    w = w.clamp(max=1.1) if kind == "tis" else w.masked_fill((w < 0.9) | (w > 1.1), 0.0)
    assert_same(objective, b, trl_loss(b, "dapo", importance_sampling_ratio=w))


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_equals_trl(seed: int) -> None:
    """The RLOO trainer of TRL clips the product of a completion's ratios."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    objective = replace(
        algorithm("rloo").objective,
        ratio="sequence_product",
        trust=Trust("clip"),
        aggregation="sequence_mean",
        kl=KL("none"),
    )
    b = compute_advantages(objective, numbers(seed))
    assert b.advantages is not None
    assert b.old_logprobs is not None
    grouped = b.rewards.view(-1, G)
    loo = grouped - (grouped.sum(1, keepdim=True) - grouped) / (G - 1)
    torch.testing.assert_close(b.advantages[:, 0], loo.flatten())
    trainer = SimpleNamespace(
        accelerator=_Accelerator(),
        model=SimpleNamespace(training=True),
        epsilon_low=0.2,
        epsilon_high=0.2,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (b.logprobs, b.entropies, None),
    )
    mask = b.action_mask.double()
    ids = torch.zeros(N, T, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(N, 1),
        "completion_ids": ids,
        "completion_mask": mask,
        "old_logps": (b.old_logprobs * mask).sum(1),
        "advantages": b.advantages[:, 0],
    }
    assert_same(objective, b, RLOOTrainer._compute_loss(trainer, None, inputs))


def test_rloo_without_a_ratio_has_the_same_gradient_on_policy() -> None:
    b = compute_advantages(algorithm("rloo").objective, numbers(0))
    assert b.logprobs is not None
    on_policy = replace(b, old_logprobs=b.logprobs.detach())
    without_kl = replace(algorithm("rloo").objective, kl=KL("none"))
    clipped = replace(without_kl, ratio="sequence_product", trust=Trust("clip"), aggregation="sequence_mean")
    gradients = []
    for objective in (without_kl, clipped):
        loss = policy_loss(objective, on_policy)
        gradients.append(torch.autograd.grad(loss.total / loss.count, b.logprobs)[0])
    torch.testing.assert_close(gradients[0], gradients[1])

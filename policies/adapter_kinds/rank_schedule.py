"""AdaLoRA's schedule of ranks: how much each layer's singular values matter, and which of them are removed when.

Zhang et al. 2023, arXiv:2303.10512. A layer adds alpha / r₀ · B diag(E) A to its weight. After each optimizer step
peft updates the importance of each triplet (row of A, entry of E, column of B) from |parameter · gradient|, smoothed
twice. From update T / 10 to 4 T / 5 of T the number of triplets falls from r₀ to r per layer on average along a cubic
curve, and the least important ones of all layers lose their singular value. Until T the choice stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_WARMUP = 0.1
_FINAL = 0.2
"""Shares of the updates before the first removal and after the last one."""
_REMOVALS = 100
"""Removals in a run at most: each ranks all triplets."""
PENALTY_COEF = 0.5
"""Coefficient of ‖A Aᵀ - I‖ + ‖Bᵀ B - I‖, averaged over the matrices; the default of peft."""


class RankSchedule:
    """The schedule of one run. Its state belongs into the checkpoint.

    Args:
        model: a peft model with a new AdaLoRA adapter.
        total_updates: optimizer steps of the run, T.
    """

    def __init__(self, model: Any, total_updates: int) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._allocator = self._tuner.rankallocator
        total = max(1, total_updates)
        self._config.total_step = total
        self._config.tinit = int(_WARMUP * total)
        self._config.tfinal = int(_FINAL * total)
        self._config.deltaT = max(1, total // _REMOVALS)
        self._config.rank_pattern = None
        self._matrices = [p for n, p in model.named_parameters() if "lora_A." in n or "lora_B." in n]

    def penalty(self) -> Tensor | None:
        """Return the penalty that keeps the singular vectors orthogonal, with gradient; None while nothing trains."""
        if not any(p.requires_grad for p in self._matrices):
            return None
        norms = []
        for p in self._matrices:
            product = p @ p.T if p.shape[0] <= p.shape[1] else p.T @ p
            norms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=p.device)))
        return PENALTY_COEF * torch.stack(norms).mean()

    def after_step(self, update: int) -> None:
        """Update the importance and remove triplets; call it after an optimizer step, before its gradient is dropped.

        Args:
            update: number of the step, from 1.
        """
        for name, parameter in self._tuner.model.named_parameters():
            # a layer that no token was routed to, and a body that only a value head is trained on, have no gradient
            if "lora_" in name and parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        last = self._config.total_step - self._config.tfinal
        if update >= last and not (self._allocator.exp_avg_ipt or self._config.rank_pattern):
            return  # a run of so few updates that no importance is known
        self._tuner.update_and_allocate(update)

    def after_other_step(self) -> None:
        """Remove again what an optimizer step of another loss has brought back; it changes no importance."""
        if self._config.rank_pattern:
            self._allocator.mask_using_rank_pattern(self._tuner.model, self._config.rank_pattern)

    def state_dict(self) -> dict[str, Any]:
        """Return the smoothed importances and the present choice of triplets."""
        allocator = self._allocator
        return {
            "importance": dict(allocator.exp_avg_ipt),
            "uncertainty": dict(allocator.exp_avg_unc),
            "ranks": self._config.rank_pattern or {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self._matrices[0].device
        self._allocator.exp_avg_ipt = {name: t.to(device) for name, t in state["importance"].items()}
        self._allocator.exp_avg_unc = {name: t.to(device) for name, t in state["uncertainty"].items()}
        self._allocator.ipt = dict(self._allocator.exp_avg_ipt)  # its names alone are read before it is set again
        self._config.rank_pattern = {name: list(kept) for name, kept in state["ranks"].items()} or None


def rank_schedule(policy: nn.Module, total_updates: int) -> RankSchedule | None:
    """Return the schedule of a policy with a new AdaLoRA adapter; None for another one.

    An adapter that is continued keeps the ranks that it has.

    Args:
        policy: any policy.
        total_updates: optimizer steps of the run.
    """
    model: Any = getattr(policy, "model", None)
    config = getattr(model, "peft_config", {}).get("default")
    if getattr(config, "peft_type", None) != "ADALORA" or not getattr(policy, "has_new_adapter", False):
        return None
    return RankSchedule(model, total_updates)


@contextmanager
def stored_ranks(model: Any) -> Iterator[None]:
    """Store an AdaLoRA adapter within the block without the triplets whose singular value is 0.

    They have no effect, so that the stored adapter is the trained one. A layer without another keeps one of them.
    """
    config = model.peft_config["default"]
    if config.peft_type != "ADALORA":
        yield
        return
    chosen = config.rank_pattern
    values = {n: p for n, p in model.base_model.model.named_parameters() if "lora_E.default" in n}
    kept = {name: _kept(value, config.init_r) for name, value in values.items()}
    config.rank_pattern = kept
    try:
        yield
    finally:
        config.rank_pattern = chosen


def _kept(value: Tensor, initial_rank: int) -> list[bool]:
    """Return which of the initial triplets of a layer are stored: those whose singular value [r, 1] is not 0.

    peft cuts the initial rank to them before it loads them. A layer that was loaded with a lower rank keeps that.
    """
    rank = len(value)
    if rank < initial_rank:
        return [True] * rank + [False] * (initial_rank - rank)
    kept: list[bool] = (value.detach().flatten() != 0).tolist()
    return kept if any(kept) else [True, *kept[1:]]  # tensors without entries could not be trained on

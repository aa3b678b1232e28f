"""Log-probs and entropies of given tokens straight from hidden states, logits never whole in memory.

For a token y of logits z = process(scale · (W h + b)), with p = softmax(z) and L = logsumexp(z):

    log pi = z_y - L           d log pi / dz_j = 1[j = y] - p_j
    H = -Σ_j p_j log p_j       d H / dz_j      = -p_j (log p_j + H)

L is had from p, for no more exponentials: L = max z - log max p. Rows go through in chunks. What the backward pass
needs of a chunk is its p: where the head is frozen, W_y - pᵀW is formed while p is at hand; otherwise p is kept up to a
limit of memory, and computed again beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlalign.policies.logits import process
from rlalign.policies.scoring.linear import product
from rlalign.types import Sampling

_ROWS = 256
"""Rows of a chunk."""
_KEPT_BYTES = 1 << 29
"""Probabilities kept for the backward pass."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """How logits come from W h + b, and what becomes of them."""

    scale: float
    sampling: Sampling
    entropy: bool


def fused_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    sampling: Sampling,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Float32 log-probs [M] of the targets and, when asked for, entropies [M], with gradient; hidden [M, d], W [V, d].

    Products run in the dtype of W, which hidden is cast to; all else is float32. Differentiable once.
    """
    if not torch.is_grad_enabled():  # a parameter would make `_Fused` keep what no backward pass will ask for
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    apply: Callable[..., tuple[Tensor, Tensor]] = _Fused.apply
    logprobs, entropies = apply(hidden.to(weight.dtype), weight, bias, targets, HeadSpec(scale, sampling, entropy))
    return logprobs, entropies if entropy else None


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, spec: HeadSpec
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3])
        # with a frozen head the gradient to hidden is g · (W_y - pᵀW), whatever g will be
        ctx.unit = wants_hidden and not wants_weight and not spec.entropy
        keeps = wants_weight and 4 * len(hidden) * len(weight) <= _KEPT_BYTES
        kept, logprobs, entropies, units = [], [], [], []
        room = None if keeps else _room(hidden, weight)
        for h, y in zip(torch.split(hidden, _ROWS), torch.split(targets, _ROWS), strict=True):
            z = _logits(h, weight, bias, y, spec, None if keeps else room)
            own, top = z.gather(-1, y[:, None]).squeeze(-1), z.amax(-1)
            p = _softmax(z)
            logprobs.append(own - top + p.amax(-1).log_())
            if keeps:
                kept.append(p)
            if spec.entropy:
                entropies.append(-_p_log_p(p).sum(-1))
            if ctx.unit:
                change = p.neg_().scatter_add_(-1, y[:, None], torch.ones_like(p[:, :1]))
                units.append(_factor(spec) * (change.to(weight.dtype) @ weight).float())
        ctx.spec = spec
        ctx.set_materialize_grads(False)  # an entropy that is only looked at costs nothing
        logprob = torch.cat(logprobs)
        entropy = torch.cat(entropies) if spec.entropy else torch.zeros_like(logprob)
        unit = torch.cat(units) if units else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, unit, *kept)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, unit, *kept = ctx.saved_tensors
        spec: HeadSpec = ctx.spec
        g = torch.zeros_like(entropy) if grads[0] is None else grads[0]
        ge = grads[1] if spec.entropy else None
        if ctx.unit:
            return (g[:, None] * unit).to(hidden.dtype), None, None, None, None
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dh = torch.empty_like(hidden) if wants_hidden else None
        dw = torch.zeros_like(weight) if wants_weight else None
        db = torch.zeros_like(bias) if wants_bias else None
        room = None if kept else _room(hidden, weight)
        for i, start in enumerate(range(0, len(hidden), _ROWS)):
            part = slice(start, start + _ROWS)
            h, y = hidden[part], targets[part]
            p = kept[i] if kept else _softmax(_logits(h, weight, bias, y, spec, room))
            dz = _dz(p, y, _factor(spec) * g[part], entropy[part], None if ge is None else _factor(spec) * ge[part])
            dz = dz.to(weight.dtype)
            if dh is not None:
                dh[part] = product(dz, weight.t())
            if dw is not None:
                dw.addmm_(dz.t(), h)
            if db is not None:
                db += dz.sum(0)
        return dh, dw, db, None, None


def _factor(spec: HeadSpec) -> float:
    return spec.scale / spec.sampling.temperature


def _room(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 [m, V] for a chunk: made once, because fresh memory of this size costs as much as a product."""
    return torch.empty(min(len(hidden), _ROWS), len(weight), dtype=torch.float32, device=hidden.device)


def _logits(h: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, spec: HeadSpec, room: Tensor | None) -> Tensor:
    """float32 [m, V], processed, in the room where there is one; the target, which was drawn, is in the support
    whatever rounding says."""
    if room is None:
        raw = product(h, weight).float()
    elif weight.dtype == torch.float32:
        raw = torch.mm(h, weight.t(), out=room[: len(h)])
    else:
        raw = room[: len(h)].copy_(h @ weight.t())
    if bias is not None:
        raw += bias
    if spec.scale != 1.0:
        raw *= spec.scale
    z = process(raw, spec.sampling)
    if spec.sampling.top_k or spec.sampling.top_p < 1.0:
        z = z.scatter(-1, y[:, None], raw.gather(-1, y[:, None]) / spec.sampling.temperature)
    return z


def _softmax(z: Tensor) -> Tensor:
    """p in the place of z."""
    return torch.softmax(z, -1, out=z)


def _p_log_p(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny).log_().mul_(p)  # 0 · log 0 = 0


def _dz(p: Tensor, y: Tensor, g: Tensor, entropy: Tensor, ge: Tensor | None) -> Tensor:
    """g · (onehot(y) - p) - ge · p · (log p + H), [m, V], in the place of p."""
    if ge is None:
        dz = p.mul_(-g[:, None])
    else:
        bent = _p_log_p(p).mul_(ge[:, None])
        dz = p.mul_(-(g + ge * entropy)[:, None]).sub_(bent)
    return dz.scatter_add_(-1, y[:, None], g[:, None])

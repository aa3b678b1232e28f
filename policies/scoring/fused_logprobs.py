"""Log-probs and entropies of given tokens directly from hidden states, without all logits in memory at once.

For a token y of logits z = process(scale · (W h + b)), with p = softmax(z) and L = logsumexp(z):

    log pi = z_y - L           d log pi / dz_j = 1[j = y] - p_j
    H = -Σ_j p_j log p_j       d H / dz_j      = -p_j (log p_j + H)

L is computed from p, which saves exponentials: L = max z - log max p. Rows are processed in chunks. The backward pass
needs the p of each chunk. If the head is frozen, the gradient W_y - pᵀW is formed in the forward pass, while p is in
memory. Otherwise p is saved up to a memory limit, and computed again beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlalign.policies.logits import process
from rlalign.policies.scoring.linear import matmul_transposed
from rlalign.types import Sampling

_CHUNK_ROWS = 256
"""Rows per chunk."""
_SAVED_BYTES = 1 << 29
"""Limit of the probabilities that are saved for the backward pass."""
_GRADIENT_BYTES = 1 << 28
"""Limit of the logit gradients of a low precision that are multiplied at once."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The computation from W h + b to the sampling distribution, and whether to compute its entropy."""

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
    """Compute log-probs and entropies of target tokens. Differentiable once.

    Matrix products run in the dtype of W, to which hidden is cast. Everything else is float32.

    Args:
        hidden: [M, d], the hidden state before each target.
        weight: W [V, d] of the head.
        bias: b [V] of the head, or None.
        targets: int64 [M].
        scale: factor of the logits.
        sampling: the sampling distribution.
        entropy: whether to compute entropies.

    Returns:
        Log-probs [M] and entropies [M] (or None), float32.
    """
    if not torch.is_grad_enabled():
        # a parameter requires gradients, so that the function would save probabilities for a backward pass
        hidden = hidden.detach()
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
    apply: Callable[..., tuple[Tensor, Tensor]] = _FusedLogprobs.apply
    logprobs, entropies = apply(hidden.to(weight.dtype), weight, bias, targets, HeadSpec(scale, sampling, entropy))
    return logprobs, entropies if entropy else None


class _FusedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, spec: HeadSpec
    ) -> tuple[Tensor, Tensor]:
        needs_hidden = ctx.needs_input_grad[0]
        needs_weight = any(ctx.needs_input_grad[1:3])
        # with a frozen head the gradient to hidden is g · (W_y - pᵀW): the factor does not depend on g
        ctx.head_frozen = needs_hidden and not needs_weight and not spec.entropy
        save_probs = needs_weight and 4 * len(hidden) * len(weight) <= _SAVED_BYTES
        saved_probs, logprobs, entropies, hidden_grads = [], [], [], []
        buffer = None if save_probs else _logit_buffer(hidden, weight)
        for h, y in zip(torch.split(hidden, _CHUNK_ROWS), torch.split(targets, _CHUNK_ROWS), strict=True):
            z = _logits(h, weight, bias, y, spec, None if save_probs else buffer)
            # both are read before the softmax overwrites z
            target_logits, top = z.gather(-1, y[:, None]).squeeze(-1), z.amax(-1)
            p = _softmax(z)
            logprobs.append(target_logits - top + p.amax(-1).log_())
            if save_probs:
                saved_probs.append(p)
            if spec.entropy:
                entropies.append(-_p_log_p(p).sum(-1))
            if ctx.head_frozen:
                one_hot_minus_p = p.neg_().scatter_add_(-1, y[:, None], torch.ones_like(p[:, :1]))
                hidden_grads.append(_logit_scale(spec) * (one_hot_minus_p.to(weight.dtype) @ weight).float())
        ctx.spec = spec
        # None instead of zeros for an unused output: an entropy that is only reported costs nothing
        ctx.set_materialize_grads(False)
        logprob = torch.cat(logprobs)
        entropy = torch.cat(entropies) if spec.entropy else torch.zeros_like(logprob)
        hidden_grad = torch.cat(hidden_grads) if hidden_grads else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, hidden_grad, *saved_probs)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, hidden_grad, *saved_probs = ctx.saved_tensors
        spec: HeadSpec = ctx.spec
        g = torch.zeros_like(entropy) if grads[0] is None else grads[0]
        g_entropy = grads[1] if spec.entropy else None
        if ctx.head_frozen:
            return (g[:, None] * hidden_grad).to(hidden.dtype), None, None, None, None
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dh = torch.empty_like(hidden) if needs_hidden else None
        dw = _WeightGradient(hidden, weight) if needs_weight else None
        db = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        buffer = None if saved_probs else _logit_buffer(hidden, weight)
        scale = _logit_scale(spec)
        for i, start in enumerate(range(0, len(hidden), _CHUNK_ROWS)):
            chunk = slice(start, start + _CHUNK_ROWS)
            h, y = hidden[chunk], targets[chunk]
            p = saved_probs[i] if saved_probs else _softmax(_logits(h, weight, bias, y, spec, buffer))
            dz = _logit_gradient(
                p, y, scale * g[chunk], entropy[chunk], None if g_entropy is None else scale * g_entropy[chunk]
            )
            if db is not None:
                db += dz.sum(0)
            dz = dz.to(weight.dtype) if dw is None else dw.add(dz, h)
            if dh is not None:
                dh[chunk] = matmul_transposed(dz, weight.t())
        weight_grad = None if dw is None else dw.total()
        bias_grad = None if db is None or bias is None else db.to(bias.dtype)
        return dh, weight_grad, bias_grad, None, None


class _WeightGradient:
    """The sum of dzᵀ h [V, d] over chunks of rows, in float32.

    A sum in bfloat16 would be rounded at each chunk. In a low precision the dz of several chunks are multiplied at
    once, because adding a matrix [V, d] to the sum takes as long as the product of a few hundred rows.

    Args:
        hidden: h [M, d].
        weight: [V, d], whose dtype the products have.
    """

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self._hidden = hidden
        self._weight = weight
        self._sum: Tensor | None = None
        self._first = 0  # the rows from here on are in the buffer, and not in the sum
        self._count = 0  # rows in the buffer
        self._buffer: Tensor | None = None
        if weight.dtype == torch.float32:
            self._sum = torch.zeros_like(weight)
        else:
            chunks = max(1, _GRADIENT_BYTES // (weight.dtype.itemsize * len(weight) * _CHUNK_ROWS))
            self._buffer = weight.new_empty(min(len(hidden), chunks * _CHUNK_ROWS), len(weight))

    def add(self, dz: Tensor, h: Tensor) -> Tensor:
        """Add the next chunk, float32 dz [m, V] and h [m, d]; return dz in the dtype of the weight.

        The result is valid until the next call.
        """
        if self._buffer is None:
            assert self._sum is not None
            self._sum.addmm_(dz.t(), h)
            return dz
        if self._count + len(dz) > len(self._buffer):
            self._multiply()
        rounded = self._buffer[self._count : self._count + len(dz)].copy_(dz)
        self._count += len(dz)
        return rounded

    def _multiply(self) -> None:
        """Add the product of the rows in the buffer to the sum."""
        if self._buffer is not None and self._count:
            last = self._first + self._count
            product = self._buffer[: self._count].t() @ self._hidden[self._first : last]
            # a single product is rounded once, at its end
            single = self._count == len(self._hidden)
            self._sum = (product if single else product.float()) if self._sum is None else self._sum.add_(product)
            self._first = last
            self._count = 0

    def total(self) -> Tensor:
        """Return the sum in the dtype of the weight."""
        self._multiply()
        return torch.zeros_like(self._weight) if self._sum is None else self._sum.to(self._weight.dtype)


def _logit_scale(spec: HeadSpec) -> float:
    """Return d z / d (W h + b), the same for each logit in the support."""
    return spec.scale / spec.sampling.temperature


def _logit_buffer(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return float32 [m, V] for all chunks: fresh memory of this size would cost as much as a matrix product."""
    return torch.empty(min(len(hidden), _CHUNK_ROWS), len(weight), dtype=torch.float32, device=hidden.device)


def _logits(h: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, spec: HeadSpec, buffer: Tensor | None) -> Tensor:
    """Return processed float32 logits [m, V], in the buffer if there is one."""
    if buffer is None:
        raw = matmul_transposed(h, weight).float()
    elif weight.dtype == torch.float32:
        raw = torch.mm(h, weight.t(), out=buffer[: len(h)])
    else:
        raw = buffer[: len(h)].copy_(h @ weight.t())
    if bias is not None:
        raw += bias
    if spec.scale != 1.0:
        raw *= spec.scale
    z = process(raw, spec.sampling)
    if spec.sampling.top_k or spec.sampling.top_p < 1.0:
        # the target was sampled, hence is in the support; rounding may have moved it over the edge of top-k or top-p
        z = z.scatter(-1, y[:, None], raw.gather(-1, y[:, None]) / spec.sampling.temperature)
    return z


def _softmax(z: Tensor) -> Tensor:
    """Overwrite logits with their softmax."""
    return torch.softmax(z, -1, out=z)


def _p_log_p(p: Tensor) -> Tensor:
    # the smallest normal number instead of 0 makes 0 · log 0 = 0
    return p.clamp(min=torch.finfo(p.dtype).tiny).log_().mul_(p)


def _logit_gradient(p: Tensor, y: Tensor, g: Tensor, entropy: Tensor, g_entropy: Tensor | None) -> Tensor:
    """Overwrite p [m, V] with g · (onehot(y) - p) - g_entropy · p · (log p + H)."""
    if g_entropy is None:
        dz = p.mul_(-g[:, None])
    else:
        entropy_term = _p_log_p(p).mul_(g_entropy[:, None])
        dz = p.mul_(-(g + g_entropy * entropy)[:, None]).sub_(entropy_term)
    return dz.scatter_add_(-1, y[:, None], g[:, None])

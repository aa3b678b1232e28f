"""The sampling distribution of a token: temperature, top-k, top-p, log-probs, entropy and drawing.

The distribution is softmax(z), z = process(logits). Scoring and sampling share these functions. All of them compute in
float32 and have no state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlalign.types import Sampling

_BLOCK = 256
"""Largest number of tokens in a block of the two-level inverse CDF."""
_SMALLEST_BLOCK = 32
"""Blocks below this size would be too many; the last block is then padded instead."""
_CACHED_LOGITS = 1 << 18
"""Logits per chunk on a CPU: 1 MiB of float32, which fits into a processor's cache."""


def process(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return float32 logits [n, V] of the sampling distribution: over the temperature, -inf outside top-k and top-p.

    Top-k keeps every logit that ties with the k-th. Top-p keeps the smallest set, most probable first, whose
    probability reaches top_p, and at least one token.

    Args:
        logits: float [n, V] of the model.
        sampling: the distribution.

    Example:
        >>> process(torch.tensor([[2.0, 1.0, 0.0]]), Sampling(temperature=0.5, top_k=2))
        tensor([[4., 2., -inf]])
    """
    z = logits.float()
    if sampling.temperature != 1.0:
        z = z / sampling.temperature
    if 0 < sampling.top_k < z.shape[-1]:
        kth = z.topk(sampling.top_k, dim=-1).values[:, -1:]
        z = z.masked_fill(z < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = z.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        # a token is outside if the tokens before it reach top_p already
        outside = p.cumsum(dim=-1) - p >= sampling.top_p
        outside[:, 0] = False
        z = z.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), -torch.inf)
    return z


def token_logprobs(logits: Tensor, targets: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the log-probs of the targets and the processed logits, both float32.

    ::

        log pi(y) = z_y - log Σ_v exp(z_v),    z = process(logits)

    A target was drawn, so it was in the support. Sampler and learner compute the logits in different ways, and rounding
    may put a target just outside top-k or top-p. Its logit is therefore restored.

    Args:
        logits: float [n, V] of the model, with gradient.
        targets: int64 [n].
        sampling: the distribution that the targets were drawn from.

    Returns:
        Log-probs [n], and z [n, V] for `entropy`.
    """
    z = process(logits, sampling)
    if sampling.top_k or sampling.top_p < 1.0:
        target_logits = logits.float().gather(-1, targets[:, None]) / sampling.temperature
        z = z.scatter(-1, targets[:, None], target_logits)
    apply: Callable[..., Tensor] = _LogProbs.apply
    return apply(z, targets), z


class _LogProbs(torch.autograd.Function):
    """z[y] - logsumexp(z) [n]. Its gradient to z is g·(onehot(y) - softmax(z)), made in one [n, V] tensor."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor) -> Tensor:
        # a few rows at a time on a CPU, so that the intermediate results of logsumexp stay in the cache
        rows = max(1, _CACHED_LOGITS // z.shape[-1]) if z.device.type == "cpu" else max(1, len(z))
        total = torch.cat([part.logsumexp(dim=-1) for part in torch.split(z, rows)])
        ctx.save_for_backward(z, y, total)
        return z.gather(-1, y[:, None]).squeeze(-1) - total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (g,) = grads
        z, y, total = ctx.saved_tensors
        dz = (z - total[:, None]).exp_().mul_(-g[:, None])  # -g·softmax(z), in place
        return dz.scatter_add_(-1, y[:, None], g[:, None]), None


def entropy(z: Tensor) -> Tensor:
    """Return the entropy [n] in nats of softmax(z).

    ::

        H = logsumexp(z) - Σ_v softmax(z)_v · z_v,    with 0 · log 0 = 0

    Args:
        z: float [n, V], processed logits; -inf where the probability is 0.
    """
    # 0·(-inf) is NaN, in the gradient too
    finite = z.masked_fill(z == -torch.inf, 0.0)
    return z.logsumexp(dim=-1) - (z.softmax(dim=-1) * finite).sum(dim=-1)


def draw(logits: Tensor, sampling: Sampling, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw a token from each row of logits [n, V].

    Inverse CDF on two levels: one uniform number per row selects a block of up to 256 tokens by the sums of the blocks,
    and then a token by the sums inside that block. Sums over blocks are float64, so that the probability of a token is
    exact to about 1e-7 for every size of vocabulary. No [n, V] noise is made.

    Args:
        logits: float [n, V] of the model.
        sampling: the distribution.
        u: float64 [n] in [0, 1), one uniform number per row. None takes the most probable token.

    Returns:
        The tokens, int64 [n], and their log-probs, float32 [n].

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]]).expand(3, 4)
        >>> tokens, logprobs = draw(logits, Sampling(), torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64))
        >>> tokens, logprobs.exp()
        (tensor([0, 2, 3]), tensor([0.2500, 0.2500, 0.2500]))
    """
    p = process(logits, sampling).softmax(dim=-1)
    vocab = p.shape[1]
    if u is None:
        tokens = p.argmax(dim=-1, keepdim=True)
    elif vocab <= 2 * _BLOCK:
        cumulated = p.double().cumsum(dim=-1)
        tokens = _invert(cumulated, u[:, None] * cumulated[:, -1:])
    else:
        size = math.gcd(vocab, _BLOCK)
        if size < _SMALLEST_BLOCK:
            size = _BLOCK
            p = pad(p, (0, -vocab % size))
        blocks = p.view(len(p), -1, size)
        cumulated = blocks.sum(dim=-1).double().cumsum(dim=-1)
        target = u[:, None] * cumulated[:, -1:]
        block = _invert(cumulated, target)
        inside = blocks.gather(1, block[..., None].expand(-1, 1, size)).squeeze(1).double().cumsum(dim=-1)
        # relative to the block's start, computed from its end: the first block has no block before it to subtract
        target = target - cumulated.gather(-1, block) + inside[:, -1:]
        tokens = (block * size + _invert(inside, target)).clamp(max=vocab - 1)
    return tokens.squeeze(-1), p.gather(-1, tokens).log().squeeze(-1)


def _invert(cumulated: Tensor, u: Tensor) -> Tensor:
    """Return the first index whose cumulated weight exceeds u [n, 1].

    If rounding puts u past the end, the result is the last index with any weight. The clamp serves rows of NaN: their
    log-prob is NaN, which the learner reports, and not an index out of range.
    """
    last = cumulated[:, -1:]
    u = torch.minimum(u, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulated, u, right=True).clamp(max=cumulated.shape[-1] - 1)

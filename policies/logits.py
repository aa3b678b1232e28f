"""Temperature, top-k and top-p, and drawing from what they leave. Scoring and sampling share these functions.

The distribution of a token is softmax(z), z = process(logits). Everything is float32 and has no state.
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
_CACHED = 1 << 18
"""Logits of a piece that a processor's cache holds."""


def process(logits: Tensor, sampling: Sampling) -> Tensor:
    """float32 logits [n, V] of the sampling distribution: divided by the temperature, -inf outside top-k and top-p.

    Top-k keeps every logit that ties with the k-th; top-p keeps the smallest set, most probable first, whose
    probability reaches top_p, and never fewer than one token.
    """
    z = logits.float()
    if sampling.temperature != 1.0:
        z = z / sampling.temperature
    if 0 < sampling.top_k < z.shape[-1]:
        least = z.topk(sampling.top_k, dim=-1).values[:, -1:]
        z = z.masked_fill(z < least, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = z.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        beyond = p.cumsum(dim=-1) - p >= sampling.top_p
        beyond[:, 0] = False
        z = z.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
    return z


def token_logprobs(logits: Tensor, targets: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(log-probs [n] of the targets, processed logits [n, V]), both float32.

    A target was drawn, so it was in the support; where rounding between two ways of computing the logits would put it
    just outside top-k or top-p, it is put back.
    """
    z = process(logits, sampling)
    if sampling.top_k or sampling.top_p < 1.0:
        own = logits.float().gather(-1, targets[:, None]) / sampling.temperature
        z = z.scatter(-1, targets[:, None], own)
    apply: Callable[..., Tensor] = _LogProbs.apply
    return apply(z, targets), z


class _LogProbs(torch.autograd.Function):
    """z[y] - logsumexp(z) [n]; its gradient to z is g·(onehot(y) - softmax(z)), formed in one [n, V] tensor."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor) -> Tensor:
        # a few rows at a time on a CPU, so that what logsumexp makes on its way stays in the cache
        rows = max(1, _CACHED // z.shape[-1]) if z.device.type == "cpu" else max(1, len(z))
        total = torch.cat([part.logsumexp(dim=-1) for part in torch.split(z, rows)])
        ctx.save_for_backward(z, y, total)
        return z.gather(-1, y[:, None]).squeeze(-1) - total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (g,) = grads
        z, y, total = ctx.saved_tensors
        dz = (z - total[:, None]).exp_().mul_(-g[:, None])
        return dz.scatter_add_(-1, y[:, None], g[:, None]), None


def entropy(z: Tensor) -> Tensor:
    """Entropy [n] in nats of softmax(z [n, V]): logsumexp(z) − Σ softmax(z)·z, with 0·log 0 = 0."""
    finite = z.masked_fill(z == -torch.inf, 0.0)
    return z.logsumexp(dim=-1) - (z.softmax(dim=-1) * finite).sum(dim=-1)


def draw(logits: Tensor, sampling: Sampling, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw a token from each row of logits [n, V]; return (tokens int64 [n], log-probs float32 [n]).

    Inverse CDF on two levels: one uniform a row, u float64 [n], picks a block of up to 256 tokens by the blocks' sums
    and then a token by the sums inside that block. Sums over blocks are float64, so a token's share is right to about
    1e-7 whatever the size of the vocabulary, and no [n, V] noise is made. Without u it is the most probable token.
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
        if size < 32:  # too many blocks: rather a last one that is filled up
            size = _BLOCK
            p = pad(p, (0, -vocab % size))
        blocks = p.view(len(p), -1, size)
        cumulated = blocks.sum(dim=-1).double().cumsum(dim=-1)
        left = u[:, None] * cumulated[:, -1:]
        block = _invert(cumulated, left)
        inside = blocks.gather(1, block[..., None].expand(-1, 1, size)).squeeze(1).double().cumsum(dim=-1)
        left = left - cumulated.gather(-1, block) + inside[:, -1:]  # by the block's end: no block needs one before it
        tokens = (block * size + _invert(inside, left)).clamp(max=vocab - 1)
    return tokens.squeeze(-1), p.gather(-1, tokens).log().squeeze(-1)


def _invert(cumulated: Tensor, u: Tensor) -> Tensor:
    """The first index whose cumulated weight exceeds u; a u past the end, by rounding, gets the last with any weight.

    The clamp is for rows of NaN: their log-prob is NaN, which the learner reports, rather than an index out of range.
    """
    last = cumulated[:, -1:]
    u = torch.minimum(u, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(cumulated, u, right=True).clamp(max=cumulated.shape[-1] - 1)

"""From hidden states to log-probs: the head only at positions that predict an action, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlalign.errors import UserError
from rlalign.policies.base import TokenScores
from rlalign.policies.processing import entropy as entropy_of
from rlalign.policies.processing import token_logprobs
from rlalign.policies.value_head import ValueHead
from rlalign.types import Sampling

_LOGIT_BYTES = 1 << 28
"""Logits held at once. A batch below it keeps them for the backward pass; above it they are computed again."""

Head = Callable[[Tensor], Tensor]


def first_actions(action_mask: Tensor, lengths: Tensor) -> Tensor:
    """Column [N] of each row's first action; its length where there is none. Raises UserError for one at column 0."""
    columns = torch.arange(action_mask.shape[1], device=action_mask.device)
    first = torch.where(action_mask, columns, lengths[:, None]).amin(dim=1)
    if bool((first == 0).any()):
        raise UserError("an action at column 0 has no context to be predicted from: start contexts with BOS")
    return first


def score_actions(
    hidden: Tensor,
    start: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    action_mask: Tensor,
    sampling: Sampling,
    *,
    head: Head,
    vocab_size: int,
    entropy: bool,
    value_head: ValueHead | None,
) -> TokenScores:
    """Scores of the masked tokens; hidden[i, j] of [N, S, d] is the state after column start[i] + j of row i.

    Values are computed when a value head is given; hidden must then reach the last token of every row.
    """
    rows, columns = action_mask.nonzero(as_tuple=True)
    predicting = hidden[rows, columns - 1 - start[rows]]  # [M, d]
    targets = tokens[rows, columns]
    logprobs, entropies = _apply_head(predicting, targets, sampling, head, vocab_size, entropy)
    blank = torch.zeros(tokens.shape, dtype=torch.float32, device=hidden.device)
    at = (rows, columns)
    values = final = None
    if value_head is not None:
        values = blank.index_put(at, value_head(predicting))
        every = torch.arange(len(tokens), device=hidden.device)
        final = value_head(hidden[every, lengths - 1 - start])
    return TokenScores(
        logprobs=blank.index_put(at, logprobs),
        entropies=None if entropies is None else blank.index_put(at, entropies),
        values=values,
        final_values=final,
    )


def _apply_head(
    hidden: Tensor, targets: Tensor, sampling: Sampling, head: Head, vocab_size: int, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    def piece(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, z = token_logprobs(head(h), y, sampling)
        return logprobs, entropy_of(z) if entropy else logprobs.detach()

    size = max(1, _LOGIT_BYTES // (4 * vocab_size))
    if len(hidden) <= size:
        logprobs, entropies = piece(hidden, targets)
        return logprobs, entropies if entropy else None
    parts = []
    for i in range(0, len(hidden), size):
        h, y = hidden[i : i + size], targets[i : i + size]
        if torch.is_grad_enabled():
            parts.append(checkpoint(piece, h, y, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(piece(h, y))
    logprobs = torch.cat([p[0] for p in parts])
    return logprobs, torch.cat([p[1] for p in parts]) if entropy else None

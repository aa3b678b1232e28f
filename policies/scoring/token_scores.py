"""From hidden states to scores: the head only at positions that predict an action, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlalign.errors import UserError
from rlalign.policies.base import TokenScores
from rlalign.policies.logits import entropy as entropy_of
from rlalign.policies.logits import token_logprobs
from rlalign.policies.scoring.packing import to_device
from rlalign.policies.value_head import ValueHead
from rlalign.types import Sampling

_LOGIT_BYTES = 1 << 28
"""Logits held at once. A batch below it keeps them for the backward pass; above it they are computed again."""

Head = Callable[[Tensor], Tensor]
Scorer = Callable[[Tensor, Tensor, Sampling, bool], tuple[Tensor, Tensor | None]]
"""(states [A, d], targets [A], sampling, entropy wanted) -> log-probs [A] and entropies [A], float32."""


def first_actions(action_mask: Tensor, lengths: Tensor) -> Tensor:
    """Column [N] of each row's first action; its length where there is none. Raises UserError for one at column 0."""
    columns = torch.arange(action_mask.shape[1], device=action_mask.device)
    first = torch.where(action_mask, columns, lengths[:, None]).amin(dim=1)
    if bool((first == 0).any()):
        raise UserError("an action at column 0 has no context to be predicted from: start contexts with BOS")
    return first


def score_actions(
    states: Tensor,
    final: Tensor | None,
    tokens: Tensor,
    action_mask: Tensor,
    sampling: Sampling,
    *,
    scorer: Scorer,
    entropy: bool,
    value_head: ValueHead | None,
) -> TokenScores:
    """Scores of the masked tokens [N, L], on the device of the states.

    Args:
        states: [A, d], the hidden state before each action, in the order of `action_mask.nonzero()`.
        final: [N, d], that after the last token of each row; needed for values.
        tokens, action_mask: on the CPU, or nonzero() waits for the device.
        sampling: the distribution.
        scorer: makes log-probs and entropies of states.
        entropy: whether they are wanted.
        value_head: reads values off the same states when given.
    """
    at = action_mask.nonzero(as_tuple=True)
    targets = to_device(tokens[at], states.device)
    at = tuple(to_device(index, states.device) for index in at)
    logprobs, entropies = scorer(states, targets, sampling, entropy)
    blank = torch.zeros(tokens.shape, dtype=torch.float32, device=states.device)
    values = last = None
    if value_head is not None and final is not None:
        values, last = blank.index_put(at, value_head(states)), value_head(final)
    return TokenScores(
        logprobs=blank.index_put(at, logprobs),
        entropies=None if entropies is None else blank.index_put(at, entropies),
        values=values,
        final_values=last,
    )


def plain_scorer(head: Head, vocab_size: int) -> Scorer:
    """The scorer of any function from states to logits."""

    def scorer(states: Tensor, targets: Tensor, sampling: Sampling, entropy: bool) -> tuple[Tensor, Tensor | None]:
        def piece(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logprobs, z = token_logprobs(head(h), y, sampling)
            return logprobs, entropy_of(z) if entropy else logprobs.detach()

        size = max(1, _LOGIT_BYTES // (4 * vocab_size))
        if len(states) <= size:
            logprobs, entropies = piece(states, targets)
            return logprobs, entropies if entropy else None
        parts = []
        for h, y in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            if torch.is_grad_enabled():
                parts.append(checkpoint(piece, h, y, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(piece(h, y))
        logprobs = torch.cat([p[0] for p in parts])
        return logprobs, torch.cat([p[1] for p in parts]) if entropy else None

    return scorer

"""Scores from hidden states: the head runs only at positions that predict an action, in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlalign.policies.base import TokenScores
from rlalign.policies.logits import entropy as entropy_of
from rlalign.policies.logits import token_logprobs
from rlalign.policies.scoring.packing import to_device
from rlalign.policies.value_head import ValueHead
from rlalign.types import Sampling

_LOGIT_BYTES = 1 << 28
"""Logits in memory at once. A batch below it saves them for the backward pass; above it they are computed again."""

Head = Callable[[Tensor], Tensor]
"""Function from states [A, d] to logits [A, V]."""
Scorer = Callable[[Tensor, Tensor, Sampling, bool], tuple[Tensor, Tensor | None]]
"""(states [A, d], targets [A], sampling, compute entropies) -> log-probs [A] and entropies [A] or None, float32."""


def first_actions(action_mask: Tensor, lengths: Tensor) -> Tensor:
    """Return the column [N] of each row's first action; the row's length if it has none."""
    columns = torch.arange(action_mask.shape[1], device=action_mask.device)
    return torch.where(action_mask, columns, lengths[:, None]).amin(dim=1)


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
    """Compute the scores of the masked tokens [N, L], on the device of the states.

    Args:
        states: [A, d], the hidden state before each action, in the order of `action_mask.nonzero()`.
        final: [N, d], the state after the last token of each row; needed for values.
        tokens: int64 [N, L] on the CPU, where indexing by a mask does not wait for the device.
        action_mask: bool [N, L] on the CPU, for the same reason.
        sampling: the sampling distribution.
        scorer: computes log-probs and entropies from states.
        entropy: whether to compute entropies.
        value_head: computes values from the same states; None for no values.
    """
    actions = action_mask.nonzero(as_tuple=True)
    targets = to_device(tokens[actions], states.device)
    actions = tuple(to_device(index, states.device) for index in actions)
    logprobs, entropies = scorer(states, targets, sampling, entropy)
    zeros = torch.zeros(tokens.shape, dtype=torch.float32, device=states.device)
    values = final_values = None
    if value_head is not None and final is not None:
        values = zeros.index_put(actions, value_head(states))
        final_values = value_head(final)
    return TokenScores(
        logprobs=zeros.index_put(actions, logprobs),
        entropies=None if entropies is None else zeros.index_put(actions, entropies),
        values=values,
        final_values=final_values,
    )


def plain_scorer(head: Head, vocab_size: int) -> Scorer:
    """Return the scorer of any function from states to logits."""

    def scorer(states: Tensor, targets: Tensor, sampling: Sampling, entropy: bool) -> tuple[Tensor, Tensor | None]:
        def score_chunk(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logprobs, z = token_logprobs(head(h), y, sampling)
            # checkpoint expects the same number of outputs in both cases: log-probs stand in for missing entropies
            return logprobs, entropy_of(z) if entropy else logprobs.detach()

        size = max(1, _LOGIT_BYTES // (4 * vocab_size))  # rows of float32 logits
        if len(states) <= size:
            logprobs, entropies = score_chunk(states, targets)
            return logprobs, entropies if entropy else None
        chunks = []
        for h, y in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            if torch.is_grad_enabled():
                chunks.append(checkpoint(score_chunk, h, y, use_reentrant=False, preserve_rng_state=False))
            else:
                chunks.append(score_chunk(h, y))
        logprobs = torch.cat([chunk[0] for chunk in chunks])
        return logprobs, torch.cat([chunk[1] for chunk in chunks]) if entropy else None

    return scorer

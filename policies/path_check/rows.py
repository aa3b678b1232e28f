"""Ragged rows that cross the lengths that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.scoring.positions import thresholds

_SHORT = ((5, 11), (5, 8), (1, 5), (17, 21))
"""(prompt, length) of the rows that every proof has; the first two share their prompt."""


@dataclass(frozen=True)
class ProofRows:
    """Rows of tokens, each a prompt and a continuation.

    Attributes:
        tokens: int64 [N, L], right-padded with 0.
        prompts: int64 [N], lengths of the prompts.
        lengths: int64 [N].
        crossed: the lengths that the rows cross.
        proven: the least length that no row crosses because that would take too long; None if there is none.
    """

    tokens: Tensor
    prompts: Tensor
    lengths: Tensor
    crossed: tuple[int, ...]
    proven: int | None

    def row(self, index: int) -> list[int]:
        """Return the tokens of a row."""
        ids: list[int] = self.tokens[index, : self.lengths[index]].tolist()
        return ids

    @property
    def action_mask(self) -> Tensor:
        """Bool [N, L], true behind the prompts."""
        columns = torch.arange(self.tokens.shape[1])
        return (columns >= self.prompts[:, None]) & (columns < self.lengths[:, None])


def proof_rows(config: Any, vocab_size: int, *, budget: int, limit: int | None) -> ProofRows:
    """Build the rows of a proof.

    Args:
        config: text configuration of the model. Ids of padding and EOS occur inside a row if it has them, because a
            model may treat them in another way than other ids.
        vocab_size: number of token ids.
        budget: tokens that all rows together may have, except for the short ones.
        limit: the model's positions; None if it has no limit.
    """
    lengths = [length for length in thresholds(config) if limit is None or length + 3 <= limit]
    shapes = [(p, n) for p, n in _SHORT if limit is None or n <= limit]
    crossed = []
    for length in lengths:
        # one row begins before the length and one behind it
        added = [(max(1, length - 2), length + 3), (length + 1, length + 3)]
        if sum(n for _, n in shapes + added) > budget:
            break
        shapes += added
        crossed.append(length)
    if len(shapes) < 2:
        raise UserError(f"expected a model of at least 8 positions, got {limit}; use another model")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (len(shapes), max(n for _, n in shapes)), generator=generator)
    tokens[1, : _SHORT[0][0]] = tokens[0, : _SHORT[0][0]]
    for column, name in enumerate(("pad_token_id", "eos_token_id")):
        special = getattr(config, name, None)
        if isinstance(special, int) and 0 <= special < vocab_size:
            tokens[0, 6 + column] = special
            tokens[-1, 2 + column] = special
    row_lengths = torch.tensor([n for _, n in shapes])
    tokens[torch.arange(tokens.shape[1]) >= row_lengths[:, None]] = 0
    remaining = [length for length in lengths if length not in crossed]
    return ProofRows(
        tokens,
        torch.tensor([p for p, _ in shapes]),
        row_lengths,
        tuple(crossed),
        min(remaining, default=None),
    )

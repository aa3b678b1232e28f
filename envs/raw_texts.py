"""Completions with their special tokens, decoded only if a reward reads them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rlalign.types import Tokenizer


class RawTexts(Sequence[str]):
    """Texts of B completions with special tokens such as `<think>`, without the stop token that ends a turn.

    Turns are joined by newlines. A tokenizer without `decode_raw` has no special tokens in its texts.

    Args:
        tokenizer: decodes the turns.
        stop_ids: ids that end a turn.
        turns: of each completion, the ids of its turns.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: frozenset[int], turns: Sequence[Sequence[Sequence[int]]]
    ) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._turns = turns

    @cached_property
    def _texts(self) -> list[str]:
        decode = getattr(self._tokenizer, "decode_raw", self._tokenizer.decode)
        return ["\n".join(decode(self._without_stop(turn)) for turn in turns) for turns in self._turns]

    def _without_stop(self, turn: Sequence[int]) -> Sequence[int]:
        return turn[:-1] if turn and turn[-1] in self._stop_ids else turn

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: Any) -> Any:
        return self._texts[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._texts,)  # another process receives a list of texts

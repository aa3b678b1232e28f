"""Rewards for how long a completion is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of
from rlalign.rewards.text import words as words_of


@reward("length", timeout_s=None, range=(-1.0, 0.0))
def length(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    target: int = 32,
    unit: str = "tokens",
    **columns: Any,
) -> list[float]:
    """Nearness of the length to a target: max(-1, -|n - target| / target).

    `unit` is "tokens" (policy tokens, EOS included), "words" or "characters". Range: [-1, 0]. Cost: none to speak of.
    Deterministic. Hacked by: any text of the right length.
    Raises UserError for a target below 1 or an unknown unit.
    """
    if target < 1:
        raise UserError(f"reward 'length': target is {target}: give 1 or more")
    if unit == "tokens" and completion_ids is not None:
        sizes = [len(ids) for ids in completion_ids]
    elif unit == "words":
        sizes = [len(words_of(text_of(c))) for c in completions]
    elif unit == "characters":
        sizes = [len(text_of(c)) for c in completions]
    else:
        raise UserError(f"reward 'length': unit is '{unit}': give tokens (with completion_ids), words or characters")
    return [max(-1.0, -abs(n - target) / target) for n in sizes]


@reward("too_short", timeout_s=None, range=(-1.0, 0.0))
def too_short(completions: Sequence[Any], *, words: int = 5, **columns: Any) -> list[float]:
    """-1 for a completion of fewer than `words` words (ideographs and emoji count as words), else 0.

    Range: {-1, 0}. Cost: none to speak of. Deterministic. Hacked by: any `words` words.
    """
    return [-1.0 if len(words_of(text_of(c))) < words else 0.0 for c in completions]


@reward("soft_overlong", timeout_s=None, range=(-1.0, 0.0))
def soft_overlong(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    limit: int,
    buffer: int | None = None,
    **columns: Any,
) -> list[float]:
    """A penalty that grows over the last `buffer` tokens before `limit`: `soft_overlong?limit=64&buffer=16`.

    0 up to limit - buffer tokens, then (limit - buffer - n) / buffer, and -1 above the limit. Set `limit` to the turn's
    `max_new`; `buffer` is a fifth of it where it is not given. Range: [-1, 0]. Cost: none to speak of. Deterministic.
    Hacked by: stopping at once, where nothing else rewards saying something.
    Source: equation 13 of Yu et al., DAPO, arXiv 2503.14476.
    Raises UserError for a limit below 1 or a buffer outside 1..limit.
    """
    buffer = max(limit // 5, 1) if buffer is None else buffer
    if not 1 <= buffer <= limit:
        raise UserError(f"reward 'soft_overlong': buffer is {buffer}, limit {limit}: give 1 <= buffer <= limit")
    return [max(-1.0, min(0.0, (limit - buffer - len(ids)) / buffer)) for ids in completion_ids]

"""Rewards for the length of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of
from rlalign.rewards.text import words as words_of
from rlalign.typecheck import check_range


@reward("length", timeout_s=None, range=(-1.0, 0.0))
def length(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    *,
    target: int = 32,
    unit: str = "tokens",
    **columns: Any,
) -> list[float]:
    """Return the nearness of the length to a target: max(-1, -|n - target| / target).

    Range: [-1, 0].
    Cost: negligible.
    Deterministic.
    Hacked by: any text of the right length.

    Args:
        completions: B texts or conversations.
        completion_ids: B lists of token ids, needed for the unit "tokens".
        target: number of units, at least 1.
        unit: "tokens" (policy tokens, including EOS), "words" or "characters".
        columns: ignored.

    Raises:
        UserError: a target below 1 or an unknown unit.
    """
    check_range("reward 'length', target", target, least=1, fix="use length?target=32")
    if unit == "tokens" and completion_ids is not None:
        sizes = [len(ids) for ids in completion_ids]
    elif unit == "words":
        sizes = [len(words_of(text_of(completion))) for completion in completions]
    elif unit == "characters":
        sizes = [len(text_of(completion)) for completion in completions]
    else:
        raise UserError(
            f"reward 'length', unit: expected tokens (with completion_ids), words or characters, got '{unit}'; "
            "use length?unit=words"
        )
    return [max(-1.0, -abs(n - target) / target) for n in sizes]


@reward("too_short", timeout_s=None, range=(-1.0, 0.0))
def too_short(completions: Sequence[Any], *, words: int = 5, **columns: Any) -> list[float]:
    """Return -1 for a completion of fewer than `words` words (ideographs and emoji count as words), else 0.

    Range: {-1, 0}.
    Cost: negligible.
    Deterministic.
    Hacked by: any `words` words.

    Args:
        completions: B texts or conversations.
        words: least number of words without a penalty.
        columns: ignored.
    """
    return [-1.0 if len(words_of(text_of(completion))) < words else 0.0 for completion in completions]


@reward("soft_overlong", timeout_s=None, range=(-1.0, 0.0))
def soft_overlong(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    limit: int,
    buffer: int | None = None,
    **columns: Any,
) -> list[float]:
    """Return a penalty that grows over the last `buffer` tokens before `limit`: `soft_overlong?limit=64&buffer=16`.

    0 up to limit - buffer tokens, then (limit - buffer - n) / buffer, and -1 above the limit.

    Range: [-1, 0].
    Cost: negligible.
    Deterministic.
    Hacked by: empty completions, if no other reward requires content.
    Source: equation 13 of Yu et al., DAPO, arXiv 2503.14476.

    Args:
        completions: not used; the ids are counted.
        completion_ids: B lists of token ids.
        limit: number of tokens; use the turn's `max_new`.
        buffer: number of tokens; default a fifth of the limit.
        columns: ignored.

    Raises:
        UserError: a limit below 1 or a buffer outside of 1..limit.
    """
    buffer = max(limit // 5, 1) if buffer is None else buffer
    if not 1 <= buffer <= limit:
        raise UserError(
            f"reward 'soft_overlong': expected 1 <= buffer <= limit, got buffer {buffer} and limit {limit}; "
            "use a smaller buffer"
        )
    return [max(-1.0, min(0.0, (limit - buffer - len(ids)) / buffer)) for ids in completion_ids]

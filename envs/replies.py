"""The call of an environment's `reply`: its time limit, and the ids of the message that it returns."""

from __future__ import annotations

import operator
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rlalign.envs.episode import Episode
from rlalign.envs.time_limit import TimeLimitReached, call_within
from rlalign.errors import ReplyError, ReplyTimeoutError, RLAlignError
from rlalign.types import Tokenizer


def message_ids(
    reply: Callable[..., Any],
    episode: Episode,
    turn_ids: Sequence[int],
    label: str,
    tokenizer: Tokenizer,
    timeout_s: float | None,
) -> list[int] | None:
    """Call `reply` after a turn and return the ids of its message, or None at the end of the episode.

    Args:
        reply: the environment's method.
        episode: of the turn.
        turn_ids: ids of the turn.
        label: name of the environment, for messages.
        tokenizer: encodes a message that is a text.
        timeout_s: seconds that the call may take; None: no limit.

    Raises:
        ReplyTimeoutError: the call took longer.
        ReplyError: `reply` raised, or returned something other than a text, ids of the vocabulary or None.
    """
    name = f"reply of {label}"
    try:
        message = call_within(timeout_s, lambda: reply(episode.task, tuple(turn_ids), episode.state, episode.rng))
    except TimeLimitReached as error:
        frames = traceback.extract_tb(error.__traceback__)[:-1]  # the last one is of the signal's handler
        at = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
        raise ReplyTimeoutError(
            f"{name}: expected an answer within {error.limit}, got none on turn {len(episode.turns)} of "
            f"{episode.task.split} task {episode.task.index}{at}; use a faster reply, or a larger reply_timeout_s"
        ) from None
    except RLAlignError:
        raise
    except (Exception, SystemExit) as error:
        raise ReplyError(f"{name} failed: {type(error).__name__}: {error}") from error
    return None if message is None else _ids(message, name, tokenizer)


def _ids(message: Any, name: str, tokenizer: Tokenizer) -> list[int]:
    if isinstance(message, str):
        try:
            return list(tokenizer.encode(message))
        except RLAlignError as error:
            raise ReplyError(f"{name}: the text {message[:60]!r} cannot be encoded: {error}") from error
    try:
        # bytes are a sequence of integers, but not of token ids
        ids = None if isinstance(message, bytes | bytearray) else [operator.index(i) for i in message]
    except TypeError:  # not iterable, or an element is not an integer
        ids = None
    if ids is None:
        raise ReplyError(f"{name}: expected a text, token ids or None, got {message!r:.80}; use return 'text'")
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        wrong = next(i for i in ids if not 0 <= i < tokenizer.vocab_size)
        raise ReplyError(
            f"{name}: expected token ids from 0 to {tokenizer.vocab_size - 1}, got {wrong}; use "
            "self.tokenizer.encode(text), or return the text"
        )
    return ids

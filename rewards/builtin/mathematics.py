"""A reward for the right result, however it is written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.columns import per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_SECONDS = 3  # for one expression; math-verify's own alarm, which works in the main thread of the worker
_LIMIT = 4_000  # characters read from the end, where an answer stands


@reward("math_verify", timeout_s=60.0, range=(0.0, 1.0))
def math_verify(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    r"""1 where the result in the completion equals `answer` as mathematics (`1/2`, `0.5` and `\frac12` are equal).

    By math-verify: a `\boxed{}` counts first, then LaTeX, then the last plain number or expression. An answer is taken
    as LaTeX. What cannot be parsed, or takes longer than 3 seconds, scores 0; None without an answer. Only the last
    4000 characters are read. Runs in a worker. Range: {0, 1}. Cost: about 1,000 texts a second on one core.
    Deterministic but for the time limit. Hacked by: ending in a list of likely results; pair it with a format reward.
    Needs the extra: pip install 'rlalign[envs]'.
    """
    pairs = zip(completions, per_sample(answer, len(completions)), strict=True)
    return [None if a is None else _equal(text_of(c)[-_LIMIT:], str(a)) for c, a in pairs]


def _equal(said: str, wanted: str) -> float:
    library = import_optional("math_verify", "envs")
    seconds = _seconds()
    found = library.parse(said, parsing_timeout=seconds)
    return float(bool(found) and library.verify(list(_gold(wanted)), found, timeout_seconds=seconds))


def _seconds() -> int | None:
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of every completion that is no mathematics
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


@lru_cache(maxsize=65536)
def _gold(wanted: str) -> tuple[Any, ...]:
    found = import_optional("math_verify", "envs").parse(f"${wanted.strip().strip('$')}$", parsing_timeout=_seconds())
    return tuple(found)

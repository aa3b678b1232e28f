"""Reward for a mathematically right result in any notation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlalign.registry import import_optional
from rlalign.rewards.columns import per_sample, score_references
from rlalign.rewards.function import reward

_SECONDS = 3  # per expression; math-verify's own alarm, which works in the main thread of the worker
_LIMIT = 4_000  # characters that are read, from the end, because the answer comes last


@reward("math_verify", timeout_s=60.0, range=(0.0, 1.0))
def math_verify(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    r"""Return 1 where the result in the completion equals `answer` as mathematics (`1/2`, `0.5` and `\frac12` agree).

    By math-verify: a `\boxed{}` has precedence, then LaTeX, then the last plain number or expression. The answer is
    read as LaTeX. A completion that cannot be parsed, or takes longer than 3 seconds, scores 0. Only the last 4000
    characters are read. Runs in a worker. Needs the extra: pip install -c constraints.txt -e '.[envs]'.

    Range: {0, 1}; None without an answer.
    Cost: about 1,000 texts per second on one core.
    Deterministic except for the time limit.
    Hacked by: ending in a list of likely results; pair it with a format reward.

    Args:
        completions: B texts or conversations.
        answer: column of results in LaTeX or as plain numbers (of a list, one suffices), or one result as a parameter.
        columns: ignored.
    """
    return score_references(
        completions,
        per_sample(answer, len(completions)),
        lambda text, reference: _equal(text[-_LIMIT:], reference),
    )


def _equal(text: str, reference: str) -> float:
    library = import_optional("math_verify", "envs")
    seconds = _seconds()
    parsed = library.parse(text, parsing_timeout=seconds)
    return float(bool(parsed) and library.verify(list(_parsed_reference(reference)), parsed, timeout_seconds=seconds))


def _seconds() -> int | None:
    """Return the time limit, or None outside of the main thread, where alarms do not work."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns about every text without mathematics
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


@lru_cache(maxsize=65536)
def _parsed_reference(reference: str) -> tuple[Any, ...]:
    latex = f"${reference.strip().strip('$')}$"
    return tuple(import_optional("math_verify", "envs").parse(latex, parsing_timeout=_seconds()))

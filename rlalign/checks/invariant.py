"""The result of a check, the function that runs one, and the texts that every environment and reward must accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlalign.errors import ReplyError, ReplyTimeoutError, UserError

FUZZ = (
    "",
    " ",
    "\n\n\n",
    "\x00\x01\x02\x1b[31m\x7f",
    "\ufffd\u202e\u200b",
    "🙂👩‍👩‍👧‍👦🇳🇵",
    "这部电影很好看，我非常喜欢。",
    '{"answer": [1, 2,',
    "```python\nwhile True: pass",
    "nan",
    "-1e999",
    "a " * 4000,
    "z" * 10_000,
    "A perfectly good sentence, with a full stop.",
)
TOLERANCE = 1e-9
"""Largest difference between two float64 sums of the same rewards in another order."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one conformance check: whether an invariant holds.

    Attributes:
        name: the invariant.
        passed: true too if the invariant does not apply.
        detail: the first counterexample and its likely cause; empty if the check passed.
        warning: the check passed, and the detail is about data of another kind than was checked.
        skipped: the check was not run, for the reason in the detail.
    """

    name: str
    passed: bool
    detail: str = ""
    warning: bool = False
    skipped: bool = False


def run_check(name: str, check: Callable[[], str], applies: bool = True) -> CheckResult:
    """Run a check.

    Args:
        name: the invariant.
        check: returns the first counterexample, or an empty text. An error that it raises is a counterexample too.
        applies: run the check; otherwise it passes.

    Raises:
        UserError: the object cannot be used at all (no tasks, prompts too long, a `reply` that hangs, at which each
            further check would wait again). Another ReplyError is a counterexample.
    """
    if not applies:
        return CheckResult(name, True, "does not apply")
    try:
        detail = check()
    except Exception as error:
        if isinstance(error, ReplyTimeoutError) or (isinstance(error, UserError) and not isinstance(error, ReplyError)):
            raise
        detail = f"{type(error).__name__}: {error}"
    return CheckResult(name, not detail, detail)

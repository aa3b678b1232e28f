"""What a law says, and the texts that every law must survive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlalign.errors import ReplyError, UserError

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


@dataclass(frozen=True, slots=True)
class LawResult:
    """Whether a law holds, and what was seen (the first counter-example when it does not)."""

    name: str
    passed: bool
    detail: str = ""


def law(name: str, test: Callable[[], str], applies: bool = True) -> LawResult:
    """Run a test, which returns what is wrong or nothing; whatever it raises is wrong too."""
    if not applies:
        return LawResult(name, True, "does not apply")
    try:
        detail = test()
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, ReplyError):
            raise
        detail = f"{type(error).__name__}: {error}"
    return LawResult(name, not detail, detail)

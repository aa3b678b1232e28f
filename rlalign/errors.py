"""Error classes, and suggestions for misspelled names.

Each mistake of a user raises a `UserError`, whose message is one line; the command line prints it and exits with
status 2. A `FaultError` has its cause in the machine or in the run: a disk, a checksum, a dead worker, a diverged run.
All other exceptions are bugs and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_LISTED = 50  # a longer list of names does not help the reader


class RLAlignError(Exception):
    """Base class of all errors that rlalign raises on purpose."""


class UserError(RLAlignError):
    """A mistake in the user's input. The message names the thing, the value and the fix."""


class UnknownNameError(UserError, KeyError):
    """A name that the registry does not contain.

    Args:
        kind: kind of the name, such as "reward" or "environment".
        name: the unknown name.
        known: the names in the registry; the most similar ones become the suggestion.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown {kind} '{name}'.{did_you_mean(name, self.known)}")

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class MissingExtraError(UserError):
    """An optional package that is not installed.

    Args:
        package: name of the package.
        extra: the extra of this library that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"expected the package '{package}', which is not installed; use pip install 'rlalign[{extra}]'"
        )


class MissingColumnError(UserError):
    """A column that a reward needs, and that is neither in the tasks nor among the reward's parameters.

    Args:
        reward: name of the reward.
        column: name of the missing column.
        available: the columns of the tasks.
    """

    def __init__(self, reward: str, column: str, available: Iterable[str]) -> None:
        self.reward = reward
        self.column = column
        super().__init__(
            f"reward '{reward}': expected '{column}' as a column of the tasks or a parameter, got the columns "
            f"{', '.join(available) or 'none'}; use such a column, or {reward}?{column}=..."
        )


class ReplyError(UserError):
    """The `reply` of an environment raised, or returned something other than ids. The message names it."""


class RewardError(RLAlignError):
    """A reward raised, hung, died or returned something other than rewards. The message names it."""


class FaultError(RLAlignError):
    """A fault of the machine or the run, not of the user: a full disk, a failed checksum, a diverged run."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to an error message.

    Args:
        name: the unknown name.
        known: the known names.

    Returns:
        ` Did you mean 'x'?` if there are similar names, else ` Available: a, b.` if the list is short, else "".
    """
    known = sorted(known)
    by_folded_name = {k.casefold(): k for k in known}
    similar = difflib.get_close_matches(name.casefold(), by_folded_name, n=3, cutoff=0.5)
    # difflib compares lengths too: a short part of a long name is similar to it only as a substring
    containing = [f for f in by_folded_name if name.casefold() in f and f not in similar]
    similar += containing[: 3 - len(similar)]
    if similar:
        return " Did you mean " + " or ".join(f"'{by_folded_name[f]}'" for f in similar) + "?"
    return f" Available: {', '.join(known)}." if 0 < len(known) <= _MAX_LISTED else ""

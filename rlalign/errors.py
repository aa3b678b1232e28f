"""What can go wrong, in words that name the thing and the fix.

Every mistake a user can make ends in a `UserError`: one line, exit status 2 on the command line. Everything else is
ours (a bug) or the machine's (`FaultError`: a disk, a checksum, a dead worker) and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 50  # names that a message may list


class RLAlignError(Exception):
    """Base of all errors that rlalign raises on purpose."""


class UserError(RLAlignError):
    """A mistake in what the user gave: the message names the thing and the fix."""


class UnknownNameError(UserError, KeyError):
    """A name that no registry holds.

    Args:
        kind: what was looked up, such as "reward" or "environment".
        name: the name given.
        known: the names there are; the nearest becomes the suggestion.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        self.kind, self.name, self.known = kind, name, known
        super().__init__(f"unknown {kind} '{name}'.{did_you_mean(name, known)}")

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class MissingExtraError(UserError):
    """An optional package that is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of this library that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"expected the package '{package}', which is not installed; use pip install 'rlalign[{extra}]'"
        )


class MissingColumnError(UserError):
    """A column that a reward needs, and neither the tasks nor its parameters have."""

    def __init__(self, reward: str, column: str, there: Iterable[str]) -> None:
        self.reward, self.column = reward, column
        super().__init__(
            f"reward '{reward}' needs '{column}': a column of the tasks (there is: {', '.join(there) or 'none'}) or a "
            f"parameter, as in {reward}?{column}=..."
        )


class ReplyError(UserError):
    """An environment whose `reply` raised, or returned something that is no ids. The message names it."""


class RewardError(RLAlignError):
    """A reward that raised, hung, died or returned something that is not a reward. The message names it."""


class FaultError(RLAlignError):
    """The machine's fault rather than the user's: a full disk, a failed checksum, a diverged run."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or the list of what there is when nothing is near and it is not long, or nothing."""
    known = sorted(known)
    folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    near += [f for f in folded if name.casefold() in f and f not in near][: 3 - len(near)]
    if near:
        return " Did you mean " + " or ".join(f"'{folded[n]}'" for n in near) + "?"
    return f" There is: {', '.join(known)}." if 0 < len(known) <= _LISTED else ""

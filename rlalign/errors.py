"""Error classes, and suggestions for misspelled names.

Each mistake of a user raises a `UserError`, whose message is one line; the command line prints it and exits with
status 2. A `FaultError` has its cause in the machine or in the run: a disk, a checksum, a dead worker, a diverged run.
All other exceptions are bugs and keep their traceback; one that ends a run is the cause of a `FaultError`, which is
raised after the run is saved.
"""

from __future__ import annotations

import difflib
import os
import sysconfig
import traceback
from collections.abc import Iterable
from typing import Any

_LIBRARY = os.path.dirname(os.path.abspath(__file__))
_NOT_OF_USER = tuple(
    os.path.join(folder, "")
    for folder in (
        _LIBRARY,
        # links in a clone
        *(os.path.realpath(os.path.join(_LIBRARY, name)) for name in ("envs", "policies", "rewards")),
        sysconfig.get_path("stdlib"),
    )
)
"""Folders of code that is not the user's."""
_MAX_LISTED = 50  # a longer list of names does not help the reader


class RLAlignError(Exception):
    """Base class of all errors that rlalign raises on purpose.

    An exception of another class is a bug in the library or in a user's code, unless a docstring names it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # By default pickle calls the class with the message, and the constructors of subclasses take other arguments.
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(cls: type[RLAlignError], args: tuple[Any, ...], attributes: dict[str, Any]) -> RLAlignError:
    """Return an unpickled error."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class UserError(RLAlignError):
    """A mistake in the user's input. The message names the thing, the value and the fix.

    The command line prints the message in one line and exits with status 2.
    """


class UnknownNameError(UserError, KeyError):
    """A name that the registry does not contain. Also a `KeyError`.

    Args:
        kind: kind of the name, such as "reward" or "environment".
        name: the unknown name.
        known: the names in the registry; the most similar ones become the suggestion.
        hint: sentence about other values; empty: none.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown {kind} '{name}'.{did_you_mean(name, self.known)}{' ' if hint else ''}{hint}")

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
            f"expected the package '{package}', which is not installed; use pip install -c constraints.txt -e "
            f"'.[{extra}]' in the clone of rlalign"
        )


class MissingColumnError(UserError):
    """A column that a reward needs, and that is neither in the tasks nor among the reward's parameters.

    Args:
        reward: name of the reward.
        column: name of the missing column.
        available: the columns of the tasks.
        option: the name is an option of the reward, which comes from the spec alone.
    """

    def __init__(self, reward: str, column: str, available: Iterable[str], *, option: bool = False) -> None:
        self.reward = reward
        self.column = column
        available = list(available)
        unread = f"the column '{column}', which sets no option" if column in available else "none"
        passed = difflib.get_close_matches(column, ("prompts", "completions", "completion_ids"), n=1, cutoff=0.8)
        fix = f"the parameter '{passed[0]}', a list" if passed else f"such a column, or {reward}?{column}=..."
        super().__init__(
            f"reward '{reward}': expected '{column}' as a parameter, got {unread}; use {reward}?{column}=..."
            if option
            else f"reward '{reward}': expected '{column}' as a column of the tasks or a parameter, got the columns "
            f"{', '.join(available) or 'none'}; use {fix}"
        )


class RecordError(UserError):
    """A record of the data that cannot be used: its prompt or one of its values is at fault.

    Args:
        place: of the record, such as `sums.jsonl, line 18`.
        reason: what was expected and what the record has.
        needed: the limit in tokens with which the record could be used; 0 if it is not too long.
    """

    def __init__(self, place: str, reason: str, needed: int = 0) -> None:
        self.place = place
        self.reason = reason
        self.needed = needed
        super().__init__(f"{place}: {reason}" if place else reason)


class ReplyError(UserError):
    """The `reply` of an environment raised, or returned something other than a text or ids.

    The message names the environment; `__cause__` is the error that `reply` raised, if it raised one.
    """


class ReplyTimeoutError(ReplyError):
    """The `reply` of an environment took longer than its `reply_timeout_s`."""


class RewardError(RLAlignError):
    """A reward raised, hung, died or returned something other than rewards.

    The message names the reward. A traceback of the function is in the notes of the exception (`__notes__`).
    """


class HookError(RLAlignError):
    """A callback or an advantage function of the user's own raised, or returned something that cannot be used.

    The message names the function. The run is saved in the state before the call.
    """


class FaultError(RLAlignError):
    """A fault of the machine or the run, not of the user: a full disk, a failed checksum, a diverged run.

    After the cause is removed, `resume=True` continues the run from its newest complete checkpoint.
    """


class OutputError(FaultError):
    """The output of a command cannot be written: its reader has exited, its disk is full, or its terminal is lost.

    Args:
        error: the error of the stream.
    """

    def __init__(self, error: Exception) -> None:
        self.reader_exited = isinstance(error, BrokenPipeError)
        super().__init__(f"the output cannot be written ({getattr(error, 'strerror', None) or error})")


def user_place(error: BaseException) -> str:
    """Return where the code of the user raised an error, as ` in FILE, line N`; "" if none of its frames is theirs.

    The frame is the innermost one outside of this library, of installed packages and of Python itself. The file is
    named relative to the working directory if it lies there.

    Args:
        error: with its traceback.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = os.path.abspath(frame.filename)
        if not os.path.isfile(path) or path.startswith(_NOT_OF_USER) or "-packages" + os.sep in path:
            continue
        inside = path.startswith(os.getcwd() + os.sep)
        return f" in {os.path.relpath(path) if inside else path}, line {frame.lineno}"
    return ""


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

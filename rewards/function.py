"""What a reward is: a plain function in TRL's signature, and a description of how to run it.

    @rlalign.reward("brevity", timeout_s=5)
    def brevity(completions, **columns):
        return [-len(c) / 100 for c in completions]

The function is called with keywords: `prompts`, `completions`, `completion_ids` and every column of the tasks, each a
list with one entry per sample; it gets those that its signature accepts. It returns one value per sample: a float, or
None where it does not apply. Prompts and completions are texts, or lists of {"role", "content"} when the prompt is a
conversation. The same function runs in TRL.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args, overload

from rlalign.errors import MissingColumnError, UserError, did_you_mean
from rlalign.registry import REWARDS
from rlalign.rewards.worker_process import call
from rlalign.types import Scope

OnError = Literal["fail", "drop"] | float

_TEXTS = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True, eq=False)
class RewardFunction:
    """A reward function and how to run it. Still callable as the plain function.

    Attributes:
        name: component name in logs.
        function: `f(prompts, completions, completion_ids=..., **columns) -> list[float | None]`, plain or async; of
            scope "token" a list of lists, one float per completion id.
        scope: what one value belongs to. "turn" and "token" are scored when a turn ends, "episode" when an episode
            ends, "group" when all samples of all prompts of a rollout are there (column `group_ids`).
        timeout_s: seconds a call may take in its worker process before it is killed; None: run in this process, where
            nothing can be killed.
        retries: further attempts after a failure.
        on_error: what a failure of every attempt means. "fail": RewardError; "drop": the samples are invalid; a
            number: their value. Counted in every case.
        range: (least, greatest) value, where known.
        parameters: keywords passed at every call.
    """

    name: str
    function: Callable[..., Any]
    scope: Scope = "episode"
    timeout_s: float | None = 30.0
    retries: int = 1
    on_error: OnError = "fail"
    range: tuple[float, float] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        what = f"reward '{self.name}'"
        if not callable(self.function) or isinstance(self.function, type):
            raise UserError(f"{what} is no function but {self.function!r}: give a function or a callable object")
        if self.scope not in get_args(Scope):
            raise UserError(f"{what}: unknown scope '{self.scope}'.{did_you_mean(str(self.scope), get_args(Scope))}")
        if self.timeout_s is not None and not 0 < self.timeout_s < math.inf:
            raise UserError(f"{what}: timeout_s is {self.timeout_s}: give seconds > 0, or None to run in-process")
        if self.retries < 0:
            raise UserError(f"{what}: retries is {self.retries}: give 0 or more")
        if isinstance(self.on_error, str) and self.on_error not in ("fail", "drop"):
            raise UserError(f"{what}: on_error is '{self.on_error}': give 'fail', 'drop' or a number")
        if not isinstance(self.on_error, str) and not math.isfinite(self.on_error):
            raise UserError(f"{what}: on_error is {self.on_error}: give 'fail', 'drop' or a finite number")
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):  # as functools.wraps does
            if (value := getattr(self.function, attribute, None)) is not None:
                object.__setattr__(self, attribute, value)
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, *args: Any, **columns: Any) -> Any:
        """Run the function here and now, unguarded."""
        return call(self.function, args, {**columns, **self.parameters})

    def using(self, **parameters: Any) -> RewardFunction:
        """The same reward with some of its parameters set. Raises UserError for a parameter that it has not."""
        known = [n for n in self._named if n not in _TEXTS]
        for name in parameters:
            if name not in known:
                raise UserError(f"reward '{self.name}' has no parameter '{name}'.{did_you_mean(name, known)}")
        return replace(self, parameters={**self.parameters, **parameters})

    def arguments(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of one call: what the signature accepts of the columns, and the parameters.

        Raises UserError when the function needs what is neither.
        """
        given = {**columns, **self.parameters}
        named = self._named
        needed = [n for n, p in named.items() if p.default is p.empty and n not in given]
        for name in needed:
            if name not in _TRL_ONLY:
                raise MissingColumnError(self.name, name, [n for n in columns if n not in _TEXTS])
            given[name] = _TRL_ONLY[name]
        return given if self._takes_all else {n: v for n, v in given.items() if n in named}

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function, eval_str=True)
        except (ValueError, TypeError, NameError):  # written in C, or annotated with what only a type checker sees
            return _signature_as_written(self.function)

    @property
    def _named(self) -> dict[str, inspect.Parameter]:
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found = self._signature.parameters if self._signature else {}
        return {n: p for n, p in found.items() if p.kind not in several}

    @property
    def _takes_all(self) -> bool:
        if self._signature is None:
            return True
        return any(p.kind is p.VAR_KEYWORD for p in self._signature.parameters.values())

    def annotation(self, parameter: str) -> Any:
        """The type that the signature gives a parameter; None without one."""
        found = self._named.get(parameter)
        return None if found is None or found.annotation is found.empty else found.annotation


def _signature_as_written(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return None


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stands for TRL's logging callbacks, which have no counterpart: a component's value is its log."""


_TRL_ONLY: dict[str, Any] = {"log_metric": _ignore, "log_extra": _ignore, "trainer_state": None}


@overload
def reward(name: Callable[..., Any]) -> RewardFunction: ...


@overload
def reward(
    name: str | None = None,
    *,
    scope: Scope = "episode",
    timeout_s: float | None = 30.0,
    retries: int = 1,
    on_error: OnError = "fail",
    range: tuple[float, float] | None = None,
) -> Callable[[Callable[..., Any]], RewardFunction]: ...


def reward(
    name: str | Callable[..., Any] | None = None,
    *,
    scope: Scope = "episode",
    timeout_s: float | None = 30.0,
    retries: int = 1,
    on_error: OnError = "fail",
    range: tuple[float, float] | None = None,
) -> RewardFunction | Callable[[Callable[..., Any]], RewardFunction]:
    """Register a function as a reward: `@reward`, or `@reward("name", scope=..., ...)` (see `RewardFunction`).

    Raises UserError for a description that cannot be. A second registration under one name replaces the first, so
    that a notebook cell can be run again.
    """

    def register(function: Callable[..., Any]) -> RewardFunction:
        label = name if isinstance(name, str) else _name_of(function)
        made = RewardFunction(label, function, scope, timeout_s, retries, on_error, range)
        REWARDS.add(label, made)
        return made

    return register(name) if callable(name) else register


def as_reward(item: Any) -> RewardFunction:
    """A RewardFunction of anything callable: itself, or the defaults around a plain function.

    What comes with this library is trusted to return, and saves itself the worker.
    """
    if isinstance(item, RewardFunction):
        return item
    own = str(getattr(item, "__module__", "")).startswith("rlalign.")
    return RewardFunction(_name_of(item), item, timeout_s=None if own else 30.0)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")

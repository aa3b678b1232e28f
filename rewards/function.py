"""Reward functions: plain functions in TRL's signature, and the description of how to run them.

    @rlalign.reward("brevity", timeout_s=5)
    def brevity(completions, **columns):
        return [-len(c) / 100 for c in completions]

The function is called with keywords: `prompts`, `completions`, `completion_ids` and every column of the tasks, each a
list with one entry per sample. It receives the keywords that its signature accepts. It returns one value per sample: a
float, or None where the reward does not apply. Prompts and completions are texts, or lists of {"role", "content"} when
the prompt is a conversation; with `texts=True` they are always texts. The same function runs in TRL.

The timeout of a function is enforced in `guard.py`.
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
from rlalign.rewards.options import PASSED, options_of
from rlalign.rewards.text import text_of
from rlalign.rewards.worker_process import call
from rlalign.typecheck import check_range
from rlalign.types import Scope

OnError = Literal["fail", "drop"] | float

_TEXTS = ("prompts", "completions", "completion_ids")  # passed by every caller, so never a parameter of a spec
_CALLBACKS = ("log_metric", "log_extra")


@dataclass(frozen=True, eq=False)
class RewardFunction:
    """A reward function and how to run it. Still callable as the plain function.

    The function is called with keywords of B entries each: `prompts`, `completions`, `completion_ids` and every column
    of the tasks. It receives those that its signature accepts. Prompts and completions are texts, or lists of
    `{"role": ..., "content": ...}` if the prompt is a conversation (see `rlalign.rewards.text.text_of`). The same
    function runs in TRL.

    Attributes:
        name: component name in logs.
        function: `f(prompts, completions, completion_ids=..., **columns) -> list[float | None]`, plain or async. None
            means that the reward does not apply to the sample. With scope "token" it returns a list of lists, one float
            per completion id.
        scope: unit that one value belongs to. "turn" and "token" are scored when a turn ends, "episode" when an episode
            ends, "group" when all samples of all prompts of a rollout are complete (column `group_ids`).
        timeout_s: seconds that a call may take in its worker process before it is killed. None: the function runs in
            this process, and nothing can kill it.
        retries: further attempts after a failure.
        on_error: consequence of a failure of every attempt. "fail": RewardError; "drop": the samples are invalid; a
            number: their value. Each failure is counted.
        range: (least, greatest) value, if known.
        parameters: keywords passed at every call.
        texts: pass prompts and completions as texts always; a conversation becomes the contents of its messages.

    Raises:
        UserError: an attribute is out of its range.
    """

    name: str
    function: Callable[..., Any]
    scope: Scope = "episode"
    timeout_s: float | None = 30.0
    retries: int = 1
    on_error: OnError = "fail"
    range: tuple[float, float] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    texts: bool = False

    def __post_init__(self) -> None:
        self._check()
        # Copy the function's names, as functools.wraps does. The dataclass is frozen, hence object.__setattr__.
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            value = getattr(self.function, attribute, None)
            if value is not None:
                object.__setattr__(self, attribute, value)
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__wrapped__", self.function)

    def _check(self) -> None:
        label = f"reward '{self.name}'"
        if not callable(self.function) or isinstance(self.function, type):
            raise UserError(f"{label}: expected a function, got {self.function!r}; use a function or a callable object")
        scopes = get_args(Scope)
        if self.scope not in scopes:
            raise UserError(
                f"{label}: expected a scope among {', '.join(scopes)}, got '{self.scope}'."
                f"{did_you_mean(str(self.scope), scopes)}"
            )
        if self.timeout_s is not None:
            fix = "use None to run in-process"
            check_range(f"timeout_s of {label}", self.timeout_s, above=0, below=math.inf, fix=fix)
        check_range(f"retries of {label}", self.retries, least=0, fix="use 0 for a single attempt")
        valid = self.on_error in ("fail", "drop") if isinstance(self.on_error, str) else math.isfinite(self.on_error)
        if not valid:
            raise UserError(
                f"on_error of {label}: expected 'fail', 'drop' or a finite number, got '{self.on_error}'; "
                "use 'drop' to leave out failed samples"
            )

    def __call__(self, *args: Any, **columns: Any) -> Any:
        """Run the function directly: in this process, without timeout or retries."""
        if self.texts:
            names = [name for name, _ in zip(self._parameters_by_name, args, strict=False)]
            args = (*map(_as_texts, names, args), *args[len(names) :])
            columns = {name: _as_texts(name, values) for name, values in columns.items()}
        return call(self.function, args, {**columns, **self.parameters})

    def using(self, **parameters: Any) -> RewardFunction:
        """Return the same reward with some of its parameters set, as `NAME?parameter=value` does.

        Raises:
            UserError: the function has no such parameter.

        Example:
            >>> from rlalign.registry import REWARDS
            >>> in_words = REWARDS.get("length").using(target=4, unit="words")
            >>> in_words(completions=["one two", "one two three four"])
            [-0.5, 0.0]
        """
        names = [name for name in self._parameters_by_name if name not in _TEXTS]
        for name in parameters:
            if name not in names:
                raise UserError(f"reward '{self.name}' has no parameter '{name}'.{did_you_mean(name, names)}")
        return replace(self, parameters={**self.parameters, **parameters})

    def arguments(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords of one call: the parameters, and the columns that the signature accepts.

        A column with the name of an option is left out: options come from the spec alone.

        Raises:
            MissingColumnError: a required argument is neither a column nor a parameter.
        """
        read = {name: column for name, column in columns.items() if name not in self.options}
        arguments = {**read, **self.parameters}
        accepted = self._parameters_by_name
        missing = [name for name, p in accepted.items() if p.default is p.empty and name not in arguments]
        for name in missing:
            if name == "trainer_state":  # passed by TRL only
                arguments[name] = None
            elif name not in _CALLBACKS:  # the guarded call adds these
                available = [column for column in columns if column not in _TEXTS]
                raise MissingColumnError(self.name, name, available, option=name in self.options)
        if self.texts:
            arguments = {name: _as_texts(name, value) for name, value in arguments.items()}
        if self.accepts_all:
            return arguments
        return {name: value for name, value in arguments.items() if name in accepted}

    @cached_property
    def options(self) -> frozenset[str]:
        """Names of the parameters that are one value for all samples; the others are columns of the tasks."""
        return options_of(self._parameters_by_name)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the signature reads, and that the spec does not set."""
        others = {*self.options, *self.parameters, *PASSED}
        return [name for name in self._parameters_by_name if name not in others]

    def requires(self, name: str) -> bool:
        """Return whether the signature has a parameter without a default, which the spec does not set either."""
        parameter = self._parameters_by_name.get(name)
        return parameter is not None and parameter.default is parameter.empty and name not in self.parameters

    @property
    def accepts_all(self) -> bool:
        """Whether the function takes any keyword; assumed without a readable signature."""
        if self._signature is None:
            return True
        return any(p.kind is p.VAR_KEYWORD for p in self._signature.parameters.values())

    @cached_property
    def callbacks(self) -> tuple[str, ...]:
        """Those of TRL's callbacks `log_metric` and `log_extra` that the function takes.

        As a parameter, or by its name in the code of a function that takes any keyword (`kwargs["log_metric"]`).
        """
        function = inspect.unwrap(self.function)
        code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
        named = code.co_consts if code is not None and self.accepts_all else ()
        return tuple(name for name in _CALLBACKS if name in self._parameters_by_name or name in named)

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function, eval_str=True)
        except (ValueError, TypeError, NameError):  # written in C, or annotations that exist only for a type checker
            return _signature_as_written(self.function)

    @property
    def _parameters_by_name(self) -> dict[str, inspect.Parameter]:
        """The parameters of the signature, without *args and **kwargs."""
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = self._signature.parameters if self._signature else {}
        return {name: p for name, p in parameters.items() if p.kind not in variadic}

    def annotation(self, parameter: str) -> Any:
        """Return the type that the signature declares for a parameter, or None."""
        declared = self._parameters_by_name.get(parameter)
        return None if declared is None or declared.annotation is declared.empty else declared.annotation


def _signature_as_written(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature with annotations as texts, or None without one."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        return None


def _as_texts(name: str, values: Any) -> Any:
    """Return prompts or completions as texts, and another column unchanged."""
    return [text_of(value) for value in values] if name in ("prompts", "completions") else values


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
    texts: bool = False,
) -> Callable[[Callable[..., Any]], RewardFunction]: ...


def reward(
    name: str | Callable[..., Any] | None = None,
    *,
    scope: Scope = "episode",
    timeout_s: float | None = 30.0,
    retries: int = 1,
    on_error: OnError = "fail",
    range: tuple[float, float] | None = None,
    texts: bool = False,
) -> RewardFunction | Callable[[Callable[..., Any]], RewardFunction]:
    """Register a function as a reward: `@reward`, or `@reward("name", scope=..., ...)`.

    The function has TRL's signature: lists of B prompts, completions and columns of the tasks as keywords, and B values
    as its result. None means that the reward does not apply to the sample (see `RewardFunction` for all rules)::

        @rlalign.reward("brevity", range=(-1.0, 0.0))
        def brevity(completions, *, limit: int = 100, **columns):
            return [-min(1.0, len(text) / limit) for text in completions]

    A spec can set the keywords of the function: `brevity?limit=50=0.5` has limit 50 and weight 0.5. A second
    registration under one name replaces the first, so that a notebook cell can run again.

    Args:
        name: registered name; without it, the name of the function.
        scope: unit of one value: "token", "turn", "episode" or "group" (see `RewardFunction`).
        timeout_s: seconds per call in a worker process, at which it is killed; None: in this process, without a limit.
        retries: further attempts after a failure.
        on_error: after the last attempt, "fail" raises, "drop" makes the samples invalid, and a number is their value.
        range: (least, greatest) value, if known.
        texts: pass prompts and completions as texts always, also for conversations, which TRL passes as lists of
            messages.

    Returns:
        The RewardFunction, which can still be called as the plain function; or, with arguments, the decorator.

    Raises:
        UserError: an argument is out of its range.
    """

    def register(function: Callable[..., Any]) -> RewardFunction:
        label = name if isinstance(name, str) else _name_of(function)
        described = RewardFunction(label, function, scope, timeout_s, retries, on_error, range, texts=texts)
        REWARDS.add(label, described)
        return described

    return register(name) if callable(name) else register


def as_reward(item: Any, name: str = "") -> RewardFunction:
    """Return a RewardFunction unchanged, or the default description of any other callable.

    Args:
        item: the reward.
        name: of an object that has none of its own; empty: that of its class.

    Functions of this library run in-process: they are trusted to return, so a worker would only add overhead.
    """
    if isinstance(item, RewardFunction):
        return item
    return RewardFunction(_name_of(item, name), item, timeout_s=None if is_built_in(item) else 30.0)


def is_built_in(function: Any) -> bool:
    """Return whether a function, or the class of an object, belongs to this library."""
    return str(getattr(function, "__module__", "")).startswith("rlalign.")


def _name_of(function: Any, name: str = "") -> str:
    # strip("<>") turns "<lambda>" into "lambda"
    return str(getattr(function, "__name__", name or type(function).__name__)).strip("<>")

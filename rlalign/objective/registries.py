"""Registries of baselines, trust regions, losses and advantages: the settings whose values are functions.

    @baseline("name")        f(returns [N], batch) -> [N] or [N, T]          built-in: baselines.py
    @trust_region("name")    f(x: TrustInput, trust: Trust) -> gain [N, T]   built-in: trust.py
    @custom_loss("name")     f(objective, batch) -> loss of a token [N, T]   built-in: loss.py, preference.py
    @advantage("name")       f(advantages [N, T], batch) -> [N, T]           built-in: none

A built-in value is one decorated function in its file and needs no entry here. Its name is read from the source text of
the file, because importing the file would import torch, and the command line lists names without it. The file is
imported when the function is first asked for. A user's function may be named by its registered name, by
`package.module:function` or by `file.py:function`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rlalign.errors import UserError
from rlalign.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = __name__.rpartition(".")[0]
_BUILT_IN_FILES: dict[str, tuple[str, ...]] = {
    "baseline": ("baselines",),
    "trust_region": ("trust",),
    "custom_loss": ("loss", "preference"),
    "advantage": (),
}
_PARAMETERS = {
    "baseline": "returns, batch",
    "trust region": "x, trust",
    "loss": "objective, batch",
    "advantage": "advantages, batch",
}
UNCHANGED = "none"
"""Value of `Objective.advantage` that leaves advantages as they are."""


@cache  # the file of the baselines is read for their names and again for what they compare
def _decorator_calls(decorator: str) -> dict[str, ast.Call]:
    """Return "module:function" -> decorator call in the built-in files of a decorator, in the order of the files."""
    calls = {}
    for stem in _BUILT_IN_FILES[decorator]:
        source = Path(__file__).with_name(f"{stem}.py").read_text(encoding="utf-8")
        for function in ast.parse(source).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                    calls[f"{_PACKAGE}.{stem}:{function.name}"] = call
    return calls


def _built_in(decorator: str) -> dict[str, str]:
    """Return registered name -> "module:function" of the built-in values of an axis."""
    return {ast.literal_eval(call.args[0]): path for path, call in _decorator_calls(decorator).items()}


BUILT_IN_BASELINES = _built_in("baseline")
BUILT_IN_TRUSTS = _built_in("trust_region")
BUILT_IN_LOSSES = _built_in("custom_loss")

BASELINES: Registry[Callable[..., Any]] = Registry("baseline", BUILT_IN_BASELINES, group="rlalign.baselines")
TRUSTS: Registry[Callable[..., Any]] = Registry("trust region", BUILT_IN_TRUSTS, group="rlalign.trusts")
LOSSES: Registry[Callable[..., Any]] = Registry("loss", BUILT_IN_LOSSES, group="rlalign.losses")
ADVANTAGES: Registry[Callable[..., Any]] = Registry("advantage", group="rlalign.advantages", functions=True)

GROUP_BASELINES = {
    ast.literal_eval(call.args[0])
    for call in _decorator_calls("baseline").values()
    if any(keyword.arg == "compares_group" and ast.literal_eval(keyword.value) for keyword in call.keywords)
}
"""Names of the baselines that compare several samples of one prompt."""


def baseline(name: str, *, compares_group: bool = False) -> Callable[[F], F]:
    """Register `f(returns [N], batch) -> [N] or [N, T]` as a value of the baseline axis.

    `returns` are the episodes' returns, KL and length penalties included. `batch.group_ids`, `batch.in_baseline` and
    `batch.action_mask` are set. Leave out the rows where `batch.in_baseline` is false. A baseline that depends on the
    row's own return is biased; `rlalign oracle` computes the bias.

    Args:
        name: of the value, for `Objective.baseline`.
        compares_group: the baseline needs at least two samples of each prompt.

    Example:
        >>> import rlalign.objective as rlo
        >>> from rlalign.oracle import compare
        >>> @rlo.baseline("half")
        ... def half(returns, batch):
        ...     return 0 * returns + 0.5
        >>> compare(rlo.Objective(baseline="half"), horizon=2).verdict
        'exact'
    """
    if compares_group:
        GROUP_BASELINES.add(name)
    return _register(BASELINES, name, "baseline")


def trust_region(name: str) -> Callable[[F], F]:
    """Register `f(x: TrustInput, trust: Trust) -> gain [N, T]` (to be maximized) as a value of the trust axis.

    The function may also return a pair: the gain and `cut`, bool [N, T], true where the bound acts. The metric
    clip_fraction is the mean of `cut`.

    Args:
        name: of the value, for `Trust.kind`.

    Example:
        >>> import rlalign.objective as rlo
        >>> @rlo.trust_region("cap")
        ... def cap(x, trust):
        ...     bound = 1 + trust.high
        ...     return x.ratio.clamp(max=bound) * x.advantages, x.ratio > bound
        >>> rlo.Objective(ratio="token", trust=rlo.Trust("cap", high=0.5)).validate()
    """
    return _register(TRUSTS, name, "trust_region")


def custom_loss(name: str) -> Callable[[F], F]:
    """Register `f(objective, batch) -> loss [N, T]` (to be minimized) in place of ratio, trust and off_policy.

    `batch.advantages` and `batch.logprobs` are set, the latter with gradient. Aggregation, KL in the loss and the
    entropy bonus still apply.

    Args:
        name: of the value, for `Objective.loss`.

    Example:
        >>> import rlalign.objective as rlo
        >>> from rlalign.oracle import compare
        >>> @rlo.custom_loss("plain")
        ... def plain(objective, batch):
        ...     return -batch.advantages * batch.logprobs
        >>> compare(rlo.Objective(loss="plain"), horizon=2).verdict
        'exact'
    """
    return _register(LOSSES, name, "custom_loss")


def advantage(name: str) -> Callable[[F], F]:
    """Register `f(advantages [N, T], batch) -> [N, T]`, which replaces or transforms the advantages of a batch.

    It is applied after credit, baseline and scale. `rlalign.objective.custom_advantage.visible` lists the fields of the
    batch. The function must be pure: equal tensors in, equal tensors out. A run compares its expected update with the
    exact gradient before the first step, as `rlalign oracle` does.

    Args:
        name: of the value, for `Objective.advantage`.

    Example:
        >>> import rlalign.objective as rlo
        >>> from rlalign.oracle import compare
        >>> @rlo.advantage("doubled")
        ... def doubled(advantages, batch):
        ...     return 2 * advantages
        >>> compare(rlo.Objective(advantage="doubled"), horizon=2).verdict
        'exact × 2'
    """
    return _register(ADVANTAGES, name, "advantage")


def check_functions(baseline: str, trust: str, loss: str, advantage: str) -> None:
    """Check that each name is of a function that takes the arguments of its setting.

    Raises:
        UserError: a name is unknown, or the object is not a function of these arguments.
    """
    names = {BASELINES: baseline, TRUSTS: trust, LOSSES: loss, ADVANTAGES: advantage}
    for registry, name in names.items():
        check_axis(registry, name)


def check_axis(registry: Registry[Callable[..., Any]], name: str) -> None:
    """Check that a registry holds a name and that its function takes the arguments of its axis.

    Built-in functions are not loaded for the check, because they need torch.

    Raises:
        UserError: the name is unknown, or the object is not a function of these arguments.
    """
    built_in: dict[str, Collection[str]] = {
        "baseline": BUILT_IN_BASELINES,
        "trust region": BUILT_IN_TRUSTS,
        "loss": BUILT_IN_LOSSES,
        "advantage": (UNCHANGED,),
    }
    if name in built_in[registry.kind]:
        return
    function = registry.get(name)
    parameters = _PARAMETERS[registry.kind]
    expected = f"{registry.kind} '{name}': expected a function f({parameters})"
    if not callable(function):
        raise UserError(f"{expected}, got a {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions written in C have no signature; a wrong one fails when it is called
        return
    if "completions" in signature.parameters:
        raise UserError(f"{expected}, got a reward; use --reward {name}")
    try:
        signature.bind(*parameters.split(", "))
    except TypeError:
        raise UserError(f"{expected}, got f{signature}") from None


def _register(registry: Registry[Callable[..., Any]], name: str, decorator: str) -> Callable[[F], F]:
    modules = {f"{_PACKAGE}.{stem}" for stem in _BUILT_IN_FILES[decorator]}

    def add(function: F) -> F:
        # The registry holds the paths of built-in functions already. Adding them again when their file is imported
        # would overwrite a function that a user registered under a built-in name before that import.
        if getattr(function, "__module__", None) not in modules:
            registry.add(name, function)
        return function

    return add

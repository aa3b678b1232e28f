"""Registries of the axes that users may extend. No torch here, so that the command line can list names quickly.

A baseline is `f(returns [N], batch) -> [N] or [N, T]`, a trust region is `f(x: TrustInput, trust: Trust) -> gain [N,
T]`, a loss is `f(objective, batch) -> per-token loss [N, T]`. Each may be named by its registered name, by
`package.module:function` or by `file.py:function`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from rlalign.errors import UserError
from rlalign.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])

BUILT_IN_BASELINES = (
    "none",
    "ema",
    "batch_mean",
    "value",
    "greedy",
    "group_mean",
    "leave_one_out",
    "length_weighted_group_mean",
)
BUILT_IN_TRUSTS = ("none", "clip", "dual_clip", "stopgrad_cap", "soft_gate", "log_clip", "divergence_mask")

BASELINES: Registry[Callable[..., Any]] = Registry(
    "baseline", {name: f"rlalign.objective.baselines:{name}" for name in BUILT_IN_BASELINES}, group="rlalign.baselines"
)
TRUSTS: Registry[Callable[..., Any]] = Registry(
    "trust region", {name: f"rlalign.objective.trust:{name}" for name in BUILT_IN_TRUSTS}, group="rlalign.trusts"
)
LOSSES: Registry[Callable[..., Any]] = Registry(
    "loss", {"surrogate": "rlalign.objective.loss:surrogate"}, group="rlalign.losses"
)
_BUILT_IN = (*BUILT_IN_BASELINES, *BUILT_IN_TRUSTS, "surrogate")
_CALLED = {"baseline": "returns, batch", "trust region": "x, trust", "loss": "objective, batch"}


def baseline(name: str) -> Callable[[F], F]:
    """Register `f(returns [N], batch) -> [N] or [N, T]` as a value of the baseline axis.

    `returns` are the episodes' returns (KL and length penalties included), `batch.group_ids`, `batch.valid` and
    `batch.action_mask` are there. Rows that are not valid have no vote. A baseline that looks at the row's own
    return is biased: `rlalign oracle` says by how much.
    """
    return _register(BASELINES, name)


def trust_region(name: str) -> Callable[[F], F]:
    """Register `f(x: TrustInput, trust: Trust) -> gain [N, T]` (to be maximised) as a value of the trust axis."""
    return _register(TRUSTS, name)


def custom_loss(name: str) -> Callable[[F], F]:
    """Register `f(objective, batch) -> loss [N, T]` (to be minimised) in place of ratio, trust and off-policy axes.

    `batch.advantages` is filled. Aggregation, KL in the loss and the entropy bonus still apply.
    """
    return _register(LOSSES, name)


def check_axis(registry: Registry[Callable[..., Any]], name: str) -> None:
    """Refuse a name that there is not, or a function that could not be called as one of its axis: UserError.

    Built-in ones are not loaded for it: they need torch.
    """
    if name in _BUILT_IN:
        return
    function, wanted = registry.get(name), _CALLED[registry.kind]
    if not callable(function):
        raise UserError(f"{registry.kind} '{name}' is a {type(function).__name__}: give a function f({wanted})")
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C: what it takes shows when it is called
        return
    if "completions" in signature.parameters:
        raise UserError(f"'{name}' is a reward, no {registry.kind} f({wanted}): use --reward {name}")
    try:
        signature.bind(*wanted.split(", "))
    except TypeError:
        raise UserError(f"{registry.kind} '{name}' takes {signature}: it is called as f({wanted})") from None


def _register(registry: Registry[Callable[..., Any]], name: str) -> Callable[[F], F]:
    def add(function: F) -> F:
        registry.add(name, function)
        return function

    return add

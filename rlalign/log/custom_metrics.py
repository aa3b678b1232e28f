"""Metrics of the user's own: functions of samples, logged at each step and in each evaluation as `metric/NAME`.

A metric measures and never decides. One that fails is reported once with its name and left out from then on, also after
a resume; the run continues.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.errors import UserError, user_place
from rlalign.registry import load
from rlalign.rollout.views import Samples
from rlalign.types import FloatArray

PREFIX = "metric/"

MetricFunction = Callable[[Samples], Any]
Report = Callable[[str], None]


def load_metrics(specs: Sequence[str | MetricFunction]) -> dict[str, MetricFunction]:
    """Return name -> function of some metrics.

    Args:
        specs: `file.py:function`, `module:function`, or functions.

    Raises:
        UserError: a file or function is missing, two have one name, or one is not a function of samples.
    """
    functions: dict[str, MetricFunction] = {}
    for spec in specs:
        function: Any = _loaded(spec) if isinstance(spec, str) else spec
        name = spec.rpartition(":")[2] if isinstance(spec, str) else str(getattr(spec, "__name__", type(spec).__name__))
        if name in functions:
            raise UserError(f"metrics: expected functions with different names, got '{name}' twice; rename one")
        functions[name] = _checked(name, function)
    return functions


class _ResultError(Exception):
    """A metric returned something other than numbers."""


class CustomMetrics:
    """The metrics of a run.

    Args:
        functions: name -> function of `Samples` that returns one number per completion, one number for all of them, or
            a dictionary of either by name.
        report: prints the failure of a metric.

    Attributes:
        failed: name -> why it failed. These metrics are not computed again.
    """

    def __init__(self, functions: Mapping[str, MetricFunction] | None = None, report: Report | None = None) -> None:
        self.functions = dict(functions or {})
        self.report = report
        self.failed: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.functions)

    def measure(self, samples: Samples) -> dict[str, float | FloatArray]:
        """Return `metric/NAME` or `metric/NAME/KEY` -> one number, or float64 [N] with NaN where it does not apply.

        Args:
            samples: N completions.
        """
        measured: dict[str, float | FloatArray] = {}
        for name, function in self.functions.items():
            if name in self.failed:
                continue
            try:
                measured |= _values(name, function(samples), len(samples))
            except _ResultError as error:
                self._fail(name, str(error))
            except (Exception, SystemExit) as error:  # sys.exit of a metric would end the run silently
                self._fail(name, f"raised {type(error).__name__}: {error}{user_place(error)}")
        return measured

    def means(self, samples: Samples) -> dict[str, float]:
        """Return the metrics of a step: means over the completions to which a metric applies, NaN if to none."""
        return {key: mean_of(value) for key, value in self.measure(samples).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics that have failed."""
        return {"failed": dict(self.failed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.failed = dict(state["failed"])

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        if self.report is not None:
            self.report(
                f"metric '{name}' {reason}; it is left out from here on, and the run continues; correct it for the "
                "next run"
            )


def mean_of(value: float | FloatArray) -> float:
    """Return a number, or the mean of the finite entries of an array; NaN if there are none."""
    if isinstance(value, float):
        return value
    finite = value[np.isfinite(value)]
    return float(finite.mean()) if len(finite) else float("nan")


def _loaded(spec: str) -> Any:
    if ":" not in spec:
        raise UserError(f"metrics: expected file.py:function or module:function, got '{spec}'; use FILE.py:FUNCTION")
    return load(spec, functions=True)


def _checked(name: str, function: Any) -> MetricFunction:
    expected = f"metric '{name}': expected a function f(samples)"
    if not callable(function):
        raise UserError(f"{expected}, got a {type(function).__name__}; use the name of a function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions written in C have no signature; a wrong one fails when it is called
        return function  # type: ignore[no-any-return]  # any callable
    if "completions" in signature.parameters:
        raise UserError(f"{expected}, got a reward; use --reward SPEC=0, which measures it without training on it")
    try:
        signature.bind("samples")
    except TypeError:
        raise UserError(f"{expected}, got f{signature}; use one parameter") from None
    return function  # type: ignore[no-any-return]  # any callable


def _values(name: str, result: Any, n: int) -> dict[str, float | FloatArray]:
    """Return key -> value of what a metric returned. Raises _ResultError for anything but numbers, one or N."""
    if isinstance(result, Mapping):
        values: dict[str, float | FloatArray] = {}
        for key, part in result.items():
            values[f"{PREFIX}{name}/{key}"] = _number_or_array(part, n)
        return values
    return {f"{PREFIX}{name}": _number_or_array(result, n)}


def _number_or_array(value: Any, n: int) -> float | FloatArray:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray([np.nan if x is None else x for x in value] if isinstance(value, list | tuple) else value)
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or value is None or array.dtype.kind not in "biuf" or numbers.shape not in ((), (n,)):
        got = f"shape {list(array.shape)}" if numbers is not None and value is not None else repr(value)[:60]
        raise _ResultError(f"returned {got}: expected one number, or {n}, one per completion")
    return float(numbers) if numbers.shape == () else numbers

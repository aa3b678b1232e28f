"""Callbacks: objects of the user's own that a run calls at its steps, rollouts and evaluations, in the order given.

A callback watches and may ask the run to stop. It changes nothing: what it gets are copies. Its own state, if it has
any, is part of the checkpoint. A callback that raises ends the run, whose state is saved as before the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.errors import HookError, RLAlignError, UserError, did_you_mean, user_place
from rlalign.registry import load
from rlalign.rewards.object_state import as_plain, from_checkpoint, to_checkpoint
from rlalign.rollout.views import RolloutView, Samples

EVENTS = ("on_rollout", "on_step", "on_evaluation", "should_stop")


@dataclass(frozen=True)
class StepView:
    """A run after the updates of a step.

    Attributes:
        step: the step, from 1.
        steps: of the whole run.
        folder: the run folder.
        config: the run's configuration.
        weights: function that returns copies of the trainable weights by name, on the CPU.
    """

    step: int
    steps: int
    folder: Path
    config: TrainConfig
    weights: Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class EvaluationView:
    """An evaluation on held-out prompts.

    Attributes:
        step: steps done; 0: before training.
        metrics: name -> mean over the prompts, as logged under `eval/`.
        samples: the completions with their rewards.
    """

    step: int
    metrics: Mapping[str, float]
    samples: Samples


class Callback:
    """The protocol of callbacks; each method is optional. A class need not inherit from this one.

    ::

        class StopAtReward:
            def __init__(self): self.reached = 0
            def on_step(self, state, metrics): self.reached += metrics["reward/mean"] > 0.9
            def should_stop(self): return self.reached >= 3
            def state_dict(self): return {"reached": self.reached}
            def load_state_dict(self, state): self.reached = state["reached"]

    `state_dict` returns dicts, lists, numbers, texts, arrays and tensors. A callback without it begins again when the
    run resumes.
    """

    def on_rollout(self, rollout: RolloutView) -> None:
        """Look at the rollout of a step, before its updates."""

    def on_step(self, state: StepView, metrics: Mapping[str, float]) -> None:
        """Look at a step after its updates and its validation, before its line is logged.

        Args:
            state: of the run.
            metrics: a copy of what will be logged.
        """

    def on_evaluation(self, results: EvaluationView) -> None:
        """Look at an evaluation: before training, at each validation, and after training."""

    def should_stop(self) -> bool:
        """Return whether the run ends here; asked once after each step."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def load_callbacks(specs: Sequence[Any]) -> dict[str, Any]:
    """Return name -> callback, in order.

    Args:
        specs: `file.py:Class` or `module:Class` (a class or function without arguments, or an object), or objects.

    Raises:
        UserError: a file or class is missing, cannot be built, or has none of the methods, or another one named on_...
    """
    callbacks: dict[str, Any] = {}
    for spec in specs:
        name = spec if isinstance(spec, str) else type(spec).__name__
        number = sum(other.partition(" #")[0] == name for other in callbacks)
        item = _built(spec) if isinstance(spec, str) else spec
        if isinstance(item, type) or not any(callable(getattr(item, event, None)) for event in EVENTS):
            raise UserError(
                f"callback '{name}': expected an object with one of {', '.join(EVENTS)}, got {item!r:.60}"
                f"{_misspelled(item)}; add one of these methods"
            )
        unknown = [method for method in dir(item) if method.startswith("on_") and method not in EVENTS]
        if unknown:
            raise UserError(f"callback '{name}': unknown method '{unknown[0]}'.{did_you_mean(unknown[0], EVENTS)}")
        callbacks[f"{name} #{number + 1}" if number else name] = item
    return callbacks


def _misspelled(item: Any) -> str:
    """Return which methods of an object without any event resemble one; empty: none does."""
    own = [name for name in dir(item) if not name.startswith("_") and callable(getattr(item, name, None))]
    for name in own:
        similar = did_you_mean(name, EVENTS)
        if similar.startswith(" Did"):
            return f" with the method '{name}' ({similar.strip()[0].lower()}{similar.strip()[1:]})"
    return ""


def _built(spec: str) -> Any:
    """Return the callback of a spec: an object, or what a class or function without arguments returns."""
    if ":" not in spec or spec.startswith(OBJECT):
        got = f"'{spec}'"
        if spec.startswith(OBJECT):
            raise UserError(
                f"callback {got} was passed as a Python object and cannot be built by name; pass callbacks=..."
            )
        raise UserError(f"callbacks: expected file.py:Class or module:Class, got {got}; use FILE.py:CLASS")
    item = load(spec)
    is_class = isinstance(item, type)
    if not is_class and any(callable(getattr(item, event, None)) for event in EVENTS):
        return item
    if not callable(item):
        return item
    try:
        return item()
    except RLAlignError:
        raise
    except Exception as error:
        raise UserError(
            f"callback '{spec}' cannot be built without arguments ({type(error).__name__}: "
            f"{error}{user_place(error)}); give its parameters defaults, or name a function that returns the object"
        ) from error


class Callbacks:
    """The callbacks of a run, called in order.

    Args:
        callbacks: name -> object.

    Attributes:
        stopped_by: name of the callback that asked the run to stop; empty: none has.
    """

    def __init__(self, callbacks: Mapping[str, Any] | None = None) -> None:
        self.callbacks = dict(callbacks or {})
        self.stopped_by = ""
        self._began = False

    def wants(self, event: str) -> bool:
        """Return whether a callback has this method: without one, nothing is copied for it."""
        return any(callable(getattr(item, event, None)) for item in self.callbacks.values())

    def on_rollout(self, rollout: RolloutView) -> None:
        """Call `on_rollout` of each callback."""
        self._call("on_rollout", lambda: rollout)

    def on_step(self, state: StepView, metrics: Mapping[str, float]) -> None:
        """Call `on_step` of each callback, each with its own copy of the metrics."""
        self._call("on_step", lambda: state, lambda: dict(metrics))

    def on_evaluation(self, results: EvaluationView) -> None:
        """Call `on_evaluation` of each callback; of the evaluation before training once per run, also if it resumes."""
        if results.step == 0 and self._began:
            return
        self._call("on_evaluation", lambda: results)
        self._began = True

    def ask_to_stop(self) -> bool:
        """Ask each callback, also after one has answered; return whether one ends the run."""
        answers = self._call("should_stop")
        stopping = [name for name, answer in answers.items() if bool(answer)]
        self.stopped_by = stopping[0] if stopping else ""
        return bool(stopping)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the callbacks that have one.

        Raises:
            HookError: `state_dict` raised.
            UserError: it returned something that a checkpoint cannot hold.
        """
        states = {
            name: to_checkpoint(as_plain(state, f"state_dict of callback '{name}'"))
            for name, state in self._call("state_dict").items()
            if state
        }
        return {"states": states, "stopped_by": self.stopped_by, "began": self._began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a callback that is new keeps its own state."""
        self.stopped_by = state["stopped_by"]
        self._began = state["began"]
        for name, saved in state["states"].items():
            load_state = getattr(self.callbacks.get(name), "load_state_dict", None)
            if callable(load_state):
                _guarded(name, "load_state_dict", load_state, from_checkpoint(saved))

    def _call(self, event: str, *arguments: Callable[[], Any]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, item in self.callbacks.items():
            method = getattr(item, event, None)
            if callable(method):
                results[name] = _guarded(name, event, method, *(make() for make in arguments))
        return results


def _guarded(name: str, event: str, method: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a method returns. Raises HookError, which names the callback, if it raises."""
    try:
        return method(*arguments)
    except (Exception, SystemExit) as error:  # sys.exit would end the process without a word
        what = (
            f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        )
        raise HookError(f"callback '{name}': {event} raised {what}{user_place(error)}") from error

"""The interface of trackers, their registry, and the trackers that a run selects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrackingConfig
from rlalign.errors import UserError
from rlalign.registry import Registry


class RunTracker:
    """The protocol of trackers; each method but `open` is optional. A class need not inherit from this one.

    It is built without arguments. All calls come from one thread of its own, in the order of the run. An error of any
    call ends the tracker and never the run.
    """

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin to track a run.

        Args:
            folder: the run folder; a resumed run has the folder that it began in.
            config: its configuration as JSON values; paths are names, and passwords and keys are left out.
        """
        raise NotImplementedError

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step.

        Args:
            step: the step, from 1.
            values: key -> value, as in metrics.jsonl; NaN where a metric has no value.
        """

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write some samples of a step as a table.

        Args:
            step: the step, from 1.
            rows: `prompt`, `completion`, `reward` and `reward/NAME`.
        """

    def picture(self, name: str, path: Path) -> None:
        """Write a plot of the run.

        Args:
            name: of the plot, such as reward.
            path: of the PNG file.
        """

    def card(self, text: str) -> None:
        """Write the card of the finished run.

        Args:
            text: Markdown with YAML metadata.
        """

    def close(self) -> None:
        """Write what is left, and end."""


TRACKERS: Registry[Any] = Registry(
    "tracker",
    {
        "wandb": "rlalign.log.tracking.weights_and_biases:WandbTracker",
        "tensorboard": "rlalign.log.tracking.tensorboard:TensorBoardTracker",
        "mlflow": "rlalign.log.tracking.mlflow:MLflowTracker",
    },
    group="rlalign.trackers",
)
"""Name -> tracker. The package of a built-in one has its name."""


def selected(tracking: TrackingConfig) -> list[str]:
    """Return the names or specs of the trackers of a run, each once."""
    switches = {"wandb": tracking.wandb != "off", "tensorboard": tracking.tensorboard, "mlflow": tracking.mlflow}
    names = [name for name, is_on in switches.items() if is_on]
    return list(dict.fromkeys([*names, *tracking.trackers]))


def check_trackers(tracking: TrackingConfig) -> None:
    """Raise UserError for a tracker that is unknown or has no method `open`; on its thread it would be a warning."""
    for spec in tracking.trackers:
        item = TRACKERS.get(spec)
        if isinstance(item, type) or not callable(item):
            _check(spec, item)


def build_tracker(spec: str) -> Any:
    """Return the tracker of a name or spec, not opened.

    Args:
        spec: a name of `TRACKERS`, `module:Class` or `file.py:Class`; an object or a function that returns one will do.

    Raises:
        UserError: it is unknown, or has no method `open`.
    """
    item = TRACKERS.get(spec)
    tracker = item() if isinstance(item, type) or (callable(item) and not hasattr(item, "open")) else item
    _check(spec, tracker)
    return tracker


def _check(spec: str, tracker: Any) -> None:
    if not callable(getattr(tracker, "open", None)):
        raise UserError(
            f"tracker '{spec}': expected a class with the method open(folder, config), got {tracker!r:.60}; use the "
            "methods of rlalign.log.tracking.protocol.RunTracker"
        )

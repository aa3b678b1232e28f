"""Trackers of a run's metrics: metrics.jsonl and samples.jsonl always, wandb and tensorboard on request.

The files are the complete record. Each other tracker reads from a queue on its own thread. A tracker that is slow,
unreachable or broken loses its own lines and does not affect the run.
"""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.storage.jsonl import JsonLines

Metrics = Mapping[str, float]
LogFunction = Callable[[int, Metrics], None]
OpenTracker = Callable[[], tuple[LogFunction, Callable[[], None]]]
"""Opens a tracker and returns its functions to log a step and to close."""

_CLOSE_TIMEOUT = 10.0  # seconds that a tracker gets to finish
_QUEUE_SIZE = 10_000  # steps that a slow tracker can be behind before it loses lines


class Tracker:
    """Writer of a run's metrics and samples to the files and to all trackers.

    Args:
        folder: the run folder.
        config: the run's configuration; `config.tracking` selects the trackers.
        state: lengths and digests of the files at the last checkpoint, from `state_dict`; the files are cut back.
        lenient: accept files that are shorter than in `state`, or edited.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, state: Mapping[str, Any] | None = None, *, lenient: bool = False
    ) -> None:
        state = state or {}
        digests = state.get("sha256", {})  # runs of before have none
        self.metrics, self.samples = (
            JsonLines(folder / f"{name}.jsonl", state.get(name, 0), digests.get(name), lenient=lenient)
            for name in ("metrics", "samples")
        )
        openers = _openers(folder, config)
        self._threads = [_TrackerThread(name, open_tracker) for name, open_tracker in openers.items()]

    def log(self, step: int, metrics: Metrics, samples: Iterable[Mapping[str, Any]] = ()) -> None:
        """Record the metrics of a step and its sample texts: in both files, or, if one cannot be written, in none."""
        before = self.metrics.mark()
        self.metrics.write([{"step": step, **metrics}])
        try:
            self.samples.write({"step": step, **sample} for sample in samples)
        except BaseException:
            self.metrics.cut(*before)
            raise
        for thread in self._threads:
            thread.put(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        """Write the files through to the disk; return their lengths in bytes and their sha256."""
        files = {"metrics": self.metrics, "samples": self.samples}
        for file in files.values():
            file.sync()
        lengths: dict[str, Any] = {name: file.length for name, file in files.items()}
        return {**lengths, "sha256": {name: file.digest for name, file in files.items()}}

    def close(self) -> None:
        """Close the files and give each tracker ten seconds to finish."""
        self.metrics.close()
        self.samples.close()
        for thread in self._threads:
            thread.close()


class _TrackerThread:
    """A tracker on its own thread; on a full queue or an error it warns once and loses lines."""

    def __init__(self, name: str, open_tracker: OpenTracker) -> None:
        self.name = name
        self._open = open_tracker
        self._warned = False
        # None tells the thread to stop
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(maxsize=_QUEUE_SIZE)
        self._thread = threading.Thread(target=self._work, name=f"rlalign-{name}", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Metrics) -> None:
        try:
            self._queue.put_nowait((step, dict(metrics)))
        except queue.Full:
            self._warn("is too slow and loses lines")

    def close(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._warn("is too slow and loses lines")
            return
        self._thread.join(timeout=_CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self._warn(f"did not finish in {_CLOSE_TIMEOUT:g} s and may lose lines")

    def _work(self) -> None:
        try:
            log, close = self._open()
            while (item := self._queue.get()) is not None:
                step, metrics = item
                log(step, metrics)
            close()
        except Exception as error:
            self._warn(f"stopped ({error})")

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.name} {problem}; metrics.jsonl stays complete", stacklevel=2)


def _openers(folder: Path, config: TrainConfig) -> dict[str, OpenTracker]:
    openers: dict[str, OpenTracker] = {}
    tracking = config.tracking
    if tracking.wandb != "off":
        openers["wandb"] = lambda: _wandb(folder, config, tracking)
    if tracking.tensorboard:
        openers["tensorboard"] = lambda: _tensorboard(folder)
    return openers


def _wandb(folder: Path, config: TrainConfig, tracking: TrackingConfig) -> tuple[LogFunction, Callable[[], None]]:
    import wandb

    run = wandb.init(
        project=tracking.project,
        name=folder.name,
        dir=str(folder),
        mode=tracking.wandb if tracking.wandb != "off" else "disabled",
        config=to_dict(config),
        settings=wandb.Settings(silent=True, init_timeout=30),
    )

    def log(step: int, metrics: Metrics) -> None:
        run.log(dict(metrics), step=step)

    return log, run.finish


def _tensorboard(folder: Path) -> tuple[LogFunction, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log, writer.close

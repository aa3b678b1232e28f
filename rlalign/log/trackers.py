"""Where a run's numbers go: metrics.jsonl and samples.jsonl always, wandb and tensorboard when asked.

The files are the record. Trackers run behind a queue on their own thread, so that one that is slow, unreachable or
broken loses its own lines and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrackingConfig, TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.errors import FaultError, UserError

Metrics = Mapping[str, float]

_PATIENCE = 10.0  # seconds a tracker gets to finish


class JsonLines:
    """An append-only JSONL file that can be cut back to a known length, so that a resumed run writes no line twice.

    Raises FaultError when the file is shorter than that (unless lenient), and when it cannot be written.
    """

    def __init__(self, path: Path, start: int = 0, *, lenient: bool = False) -> None:
        self.path = path
        size = path.stat().st_size if path.is_file() else 0
        if size < start and not lenient:
            raise FaultError(
                f"'{path}' has {size} bytes, and {start} when the checkpoint was written: restore it, or go on without "
                "the lines that are gone by --allow-change"
            )
        self._file = path.open("ab")
        self._file.truncate(min(start, size))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one line per row. NaN and infinities become null: JSON has none."""
        try:
            for row in rows:
                self._file.write(json.dumps(nullable(row), ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise FaultError(
                f"'{self.path}' cannot be written ({error.strerror}): make room, then rlalign train --resume "
                f"{self.path.parent}"
            ) from error

    def tell(self) -> int:
        """Length in bytes, safely on the disk."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Tracker:
    """Writes a run's metrics and samples; the state is how long the files were at the last checkpoint."""

    def __init__(
        self, folder: Path, config: TrainConfig, state: Mapping[str, int] | None = None, *, lenient: bool = False
    ) -> None:
        state = state or {}
        self.metrics = JsonLines(folder / "metrics.jsonl", state.get("metrics", 0), lenient=lenient)
        self.samples = JsonLines(folder / "samples.jsonl", state.get("samples", 0), lenient=lenient)
        self._mirrors = [_Mirror(name, open_) for name, open_ in _trackers(folder, config).items()]

    def log(self, step: int, metrics: Metrics, samples: Iterable[Mapping[str, Any]] = ()) -> None:
        """Record the metrics of a step and the texts that go with it."""
        self.metrics.write([{"step": step, **metrics}])
        self.samples.write({"step": step, **s} for s in samples)
        for mirror in self._mirrors:
            mirror.put(step, metrics)

    def state_dict(self) -> dict[str, int]:
        """Lengths of the files."""
        return {"metrics": self.metrics.tell(), "samples": self.samples.tell()}

    def close(self) -> None:
        """Close the files; give each tracker ten seconds to finish."""
        self.metrics.close()
        self.samples.close()
        for mirror in self._mirrors:
            mirror.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; a last line cut short by a crash is left out."""
    rows = []
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


_Log = Callable[[int, Metrics], None]
_Open = Callable[[], tuple[_Log, Callable[[], None]]]


class _Mirror:
    """A tracker on a thread of its own; full queue or error: it loses lines, the run goes on."""

    def __init__(self, name: str, open_: _Open) -> None:
        self.name, self._open, self._warned = name, open_, False
        self._queue: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(maxsize=10_000)
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
        self._thread.join(timeout=_PATIENCE)
        if self._thread.is_alive():
            self._warn(f"did not finish in {_PATIENCE:g} s and may lose lines")

    def _work(self) -> None:
        try:
            log, close = self._open()
            while (item := self._queue.get()) is not None:
                log(*item)
            close()
        except Exception as error:
            self._warn(f"stopped ({error})")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.name} {what}; metrics.jsonl stays complete", stacklevel=2)


def _trackers(folder: Path, config: TrainConfig) -> dict[str, _Open]:
    chosen: dict[str, _Open] = {}
    tracking = config.tracking
    if tracking.wandb != "off":
        chosen["wandb"] = lambda: _wandb(folder, config, tracking)
    if tracking.tensorboard:
        try:
            import tensorboard  # noqa: F401  # only to say early what to install
        except ImportError:
            raise UserError("tensorboard is not installed: pip install 'rlalign[tensorboard]'") from None
        chosen["tensorboard"] = lambda: _tensorboard(folder)
    return chosen


def _wandb(folder: Path, config: TrainConfig, tracking: TrackingConfig) -> tuple[_Log, Callable[[], None]]:
    import wandb

    run = wandb.init(
        project=tracking.project,
        name=folder.name,
        dir=str(folder),
        mode=tracking.wandb if tracking.wandb != "off" else "disabled",
        config=to_dict(config),
        settings=wandb.Settings(silent=True, init_timeout=30),
    )
    return (lambda step, metrics: run.log(dict(metrics), step=step)), run.finish


def _tensorboard(folder: Path) -> tuple[_Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def nullable(value: Any) -> Any:
    """The same JSON value with null for every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: nullable(v) for k, v in value.items()}
    return [nullable(v) for v in value] if isinstance(value, list | tuple) else value

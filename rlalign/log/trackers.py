"""The log of a run: metrics.jsonl and samples.jsonl always, and the trackers that its configuration selects.

The files are the complete record. Each tracker reads from a queue on its own thread (see `rlalign.log.tracking`), and
gets names in place of paths of this machine, and no passwords or keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.config.shareable import shareable_setting
from rlalign.escaping.shareable import shareable_name
from rlalign.log.tracking.protocol import build_tracker, selected
from rlalign.log.tracking.thread import TrackerThread
from rlalign.storage.jsonl import JsonLines

Metrics = Mapping[str, float]

_TABLES = 20  # tables of samples per run: a tracker stores each as a file
_IN_TABLES = ("prompt", "completion", "reward")


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
        self._between_tables = max(1, config.steps // _TABLES)
        settings = shareable_setting("", to_dict(config))
        self._names: dict[str, str] = {}  # key -> the one in trackers
        self._threads = [
            TrackerThread(spec, partial(build_tracker, spec), folder, settings) for spec in selected(config.tracking)
        ]

    def log(self, step: int, metrics: Metrics, samples: Iterable[Mapping[str, Any]] = ()) -> None:
        """Record the metrics of a step and its sample texts: in both files, or, if one cannot be written, in none."""
        samples = list(samples)
        before = self.metrics.mark()
        self.metrics.write([{"step": step, **metrics}])
        try:
            self.samples.write({"step": step, **sample} for sample in samples)
        except BaseException:
            self.metrics.cut(*before)
            raise
        shown = {shareable_name(key, self._names): value for key, value in metrics.items()} if self._threads else {}
        for thread in self._threads:
            thread.put("scalars", step, dict(shown))
            if samples and (step == 1 or step % self._between_tables == 0):
                thread.put("samples", step, [self._table_row(sample) for sample in samples])

    def finish(self, card: str, pictures: Mapping[str, Path]) -> None:
        """Give the trackers the results of a finished run.

        Args:
            card: Markdown of the run's card; empty: there is none.
            pictures: name -> PNG file.
        """
        for thread in self._threads:
            for name, path in pictures.items():
                thread.put("picture", name, path)
            if card:
                thread.put("card", card)

    def state_dict(self) -> dict[str, Any]:
        """Write the files through to the disk; return their lengths in bytes and their sha256."""
        files = {"metrics": self.metrics, "samples": self.samples}
        for file in files.values():
            file.sync()
        lengths: dict[str, Any] = {name: file.length for name, file in files.items()}
        return {**lengths, "sha256": {name: file.digest for name, file in files.items()}}

    def close(self) -> None:
        """Close the files and give each tracker 30 seconds to finish."""
        self.metrics.close()
        self.samples.close()
        for thread in self._threads:
            thread.close()

    def _table_row(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a sample that a table shows: texts, reward and components."""
        keys = [key for key in sample if key in _IN_TABLES or key.startswith("reward/")]
        return {shareable_name(key, self._names): sample[key] for key in keys}

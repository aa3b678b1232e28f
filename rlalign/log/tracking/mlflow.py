"""MLflow, through its client."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.log.tracking.protocol import RunTracker
from rlalign.typecheck import flatten

_FOLDER = "mlruns"
_LONGEST = 500  # characters of a parameter: the smallest limit of the stores
_BATCH = 100  # parameters per call, the limit of the client


class MLflowTracker(RunTracker):
    """A run of MLflow: metrics, parameters, and samples, pictures and card as artifacts.

    The store is that of `MLFLOW_TRACKING_URI`, by default the folder `mlruns` of the run. The experiment is
    `tracking.project`. MLflow stores no NaN: such a metric is left out of its step. A character of a key that MLflow
    does not accept becomes `_`.
    """

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin a run and write the parameters."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow refuses new folders of files without it
            uri = (folder.absolute() / _FOLDER).as_uri()
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        project = str(config["tracking"]["project"])
        experiment = self._client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(project)
        self._id = self._client.create_run(number, run_name=folder.name).info.run_id
        params = [Param(_key(key), _text(value)) for key, value in flatten(config).items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self._id, params=params[start : start + _BATCH])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step in one call."""
        now = int(1000 * time.time())
        finite = {key: value for key, value in values.items() if value == value and abs(value) != float("inf")}
        self._client.log_batch(self._id, metrics=[self._metric(_key(k), v, now, step) for k, v in finite.items()])

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table in the format of MLflow's tables, `samples/step-N.json`."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        self._client.log_text(self._id, json.dumps(table, ensure_ascii=False), f"samples/step-{step}.json")

    def picture(self, name: str, path: Path) -> None:
        """Write an image file."""
        self._client.log_artifact(self._id, str(path), "pictures")

    def card(self, text: str) -> None:
        """Write README.md, and the same text as the run's description."""
        self._client.log_text(self._id, text, "README.md")
        self._client.set_tag(self._id, "mlflow.note.content", text[:_LONGEST])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


def _key(name: str) -> str:
    return "".join(c if c.isalnum() or c in "/_-. :" else "_" for c in name)[:250]


def _text(value: Any) -> str:
    return str(value)[:_LONGEST]

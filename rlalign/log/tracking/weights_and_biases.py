"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.log.tracking.protocol import RunTracker


class WandbTracker(RunTracker):
    """A run of Weights & Biases: scalars, tables of samples, images, the configuration, and the card as an artifact.

    `tracking.wandb` is its mode; if it is off and the tracker was selected by name, `WANDB_MODE` decides.
    """

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin a run in the project `tracking.project`."""
        import wandb

        self._wandb = wandb
        mode = config["tracking"]["wandb"]
        self._run = wandb.init(
            project=config["tracking"]["project"],
            name=folder.name,
            dir=str(folder),
            mode=None if mode == "off" else mode,
            config=dict(config),
            # its metadata holds the command line, the user and the host; its process starts slowly on a busy machine,
            # and nothing waits for it but the end of the run
            settings=wandb.Settings(silent=True, init_timeout=300, x_disable_meta=True),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(values), step=step)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of the step, `samples`."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[step, *(row.get(column) for column in columns)] for row in rows]
        self._run.log({"samples": self._wandb.Table(columns=["step", *columns], data=data)}, step=step)

    def picture(self, name: str, path: Path) -> None:
        """Log an image at the last step."""
        self._run.log({f"picture/{name}": self._wandb.Image(str(path))})

    def card(self, text: str) -> None:
        """Log the card as the artifact `card-RUN`."""
        artifact = self._wandb.Artifact(f"card-{self._run.id}", type="card")
        with artifact.new_file("README.md", mode="w", encoding="utf-8") as file:
            file.write(text)
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()

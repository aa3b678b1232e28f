"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.escaping.markdown import block, code
from rlalign.log.tracking.protocol import RunTracker


class TensorBoardTracker(RunTracker):
    """Event files in the folder `tensorboard` of the run: scalars, images; texts of samples, configuration and card.

    TensorBoard renders texts as Markdown, so texts of models and data are code in them.
    """

    def open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Open the event file and write the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        self._step = 0
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._text("config", block(json.dumps(config, indent=1), "json"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of the step as a text."""
        self._step = step
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [
            columns,
            ["---"] * len(columns),
            *[[code(str(row.get(c, "")), in_table=True) for c in columns] for row in rows],
        ]
        self._text("samples", "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def picture(self, name: str, path: Path) -> None:
        """Write an image."""
        from matplotlib.image import imread

        pixels = imread(path)
        self._writer.add_image(f"picture/{name}", pixels, self._step, dataformats="HWC")

    def card(self, text: str) -> None:
        """Write the card as a text, without its metadata."""
        self._text("card", text.partition("\n---\n")[2] or text)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _text(self, name: str, markdown: str) -> None:
        self._writer.add_text(name, markdown, self._step)

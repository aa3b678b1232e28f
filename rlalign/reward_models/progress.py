"""Progress bar of a training by transformers."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import ProgressCallback


class ProgressBar(ProgressCallback):
    """The bar of transformers with the loss beside it, in place of a dictionary per step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **keywords: Any) -> None:
        """Show the loss."""
        bar: Any = self.training_bar  # None before the training
        if bar is not None and "loss" in (logs or {}):
            bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

"""Progress of a run for its user: one live line in a terminal or notebook, one plain line per step elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from rlalign.escaping.console import PlainConsole


class ProgressLine:
    """Context manager around a training loop.

    Args:
        steps: number of the last step.
        start: steps done before, in a resumed run.
        quiet: show nothing.
    """

    def __init__(self, steps: int, start: int = 0, *, quiet: bool = False) -> None:
        self.steps = steps
        self.start = start
        self.console = PlainConsole(quiet=quiet)
        self._live = self.console.is_terminal or self.console.is_jupyter
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[head]}", markup=False), BarColumn(bar_width=16),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=steps, completed=start, head="starting", text="")

    def __enter__(self) -> ProgressLine:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a finished step, counted from 1."""
        # steps of an earlier process took none of this process's time
        seconds_per_step = (time.monotonic() - self._began) / max(step - self.start, 1)
        remaining = seconds_per_step * (self.steps - step)
        text = (
            f"{_state(metrics)}  {metrics['time/tokens_per_s']:.0f} tokens/s  "
            f"{int(remaining // 60)}:{int(remaining % 60):02d} left"
        )
        head = f"step {step}/{self.steps}"
        if self._live:
            self._bar.update(self._task, completed=step, head=head, text=text)
        else:
            self.console.print(f"{head}  {text}", soft_wrap=True)


def _state(metrics: Mapping[str, float]) -> str:
    """Return the reward and length of the step's samples, or the loss on recorded data and the accuracy on pairs."""
    if "reward/mean" not in metrics:
        agreement = f"  accuracy {metrics['preference/accuracy']:.2f}" if "preference/accuracy" in metrics else ""
        return f"loss {metrics.get('train/loss', math.nan):.4f}{agreement}"
    kl = f"KL {metrics['rollout/kl']:.2f}  " if "rollout/kl" in metrics else ""
    if "rollout/teacher_kl" in metrics:
        kl = f"KL to the teacher {metrics['rollout/teacher_kl']:.2f}  "
    reward = f"reward {metrics['reward/mean']:+.3f} ± {metrics['reward/ci95']:.3f}"
    return f"{reward}  {kl}length {metrics['rollout/length']:.1f}"

"""A run and its folder.

config.json                 what was asked
metrics.jsonl               one line a step: rollout/ reward/ train/ eval/ alarm/ time/
samples.jsonl               some completions of every step
checkpoints/step-N/         state to go on from, with its manifest
best/step-N/                the weights of the best validation, with evaluation.patience
policy/                     the trained policy; transformers loads it without us
report/                     reward.png, evaluation.json, samples before and after, alarms.json where there were any
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_json, to_json
from rlalign.errors import UserError
from rlalign.storage.atomic import write_whole
from rlalign.storage.jsonl import read_metrics

if TYPE_CHECKING:
    from rlalign.evaluation.before_after import Comparison
    from rlalign.policies.base import Policy


class Run:
    """A run folder, finished or not.

    Args:
        folder: the run folder. Raises UserError when it holds no run.
    """

    def __init__(self, folder: str | Path, exit_status: int = 0) -> None:
        self.folder = Path(folder)
        self.exit_status = exit_status
        """128 + signal when the run was asked to stop before its end, else 0."""
        self.objects: tuple[Any, Any] = (None, None)
        """Environment and rewards that were given as objects: `evaluate` uses them while this process lives."""
        self.comparison: Comparison | None = None
        """Before and after on held-out prompts, when the run has just ended here."""
        if not (self.folder / "config.json").is_file():
            raise UserError(f"'{self.folder}' is not a run folder: it has no config.json (make one with rlalign train)")

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration the run was started with."""
        return read_config(self.folder)

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """Columns of metrics.jsonl: name -> one value a logged step, None where the step has none."""
        rows = read_metrics(self.folder)
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Rows of samples.jsonl."""
        path = self.folder / "samples.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    @cached_property
    def policy(self) -> Policy:
        """The trained policy, loaded from `policy/`. Raises UserError when the run has not written it yet."""
        from rlalign.policies.device import device_of
        from rlalign.policies.factory import load

        folder = self.folder / "policy"
        if not folder.is_dir():
            raise UserError(f"'{self.folder}' has no policy yet: finish it with rlalign train --resume {self.folder}")
        return load(folder, device=device_of(self.config.device))

    def evaluate(
        self,
        *,
        split: str = "test",
        prompts: int | None = None,
        samples: int | None = None,
        baseline: str | None = None,
        folds: int = 0,
        env: Any = None,
        rewards: Any = None,
    ) -> Comparison:
        """Before (or a baseline) and after on held-out prompts; also written to report/ (see `evaluate_run`).

        `env` and `rewards`: those that the run was trained with, where they were objects and this is another process.
        """
        from rlalign.evaluation.evaluate_run import evaluate_run

        self.objects = (self.objects[0] if env is None else env, self.objects[1] if rewards is None else rewards)
        return evaluate_run(self, split=split, prompts=prompts, samples=samples, baseline=baseline, folds=folds)

    def plot(self) -> Path:
        """Draw report/reward.png from metrics.jsonl and return its path."""
        from rlalign.log.plots import plot_run

        return plot_run(self.folder)

    def __repr__(self) -> str:
        rewards = [r for r in self.metrics.get("reward/mean", []) if r is not None]
        curve = f", reward {rewards[0]:.3f} -> {rewards[-1]:.3f}" if rewards else ""
        return f"Run('{self.folder}', {len(rewards)} of {self.config.steps} steps{curve})"

    def _repr_png_(self) -> bytes | None:
        return self.plot().read_bytes() if self.metrics.get("reward/mean") else None


def read_config(folder: Path) -> TrainConfig:
    """The TrainConfig of a run folder."""
    try:
        return from_json(json.loads((folder / "config.json").read_text()))
    except json.JSONDecodeError as error:
        raise UserError(f"'{folder / 'config.json'}' is not valid JSON: {error}") from error
    except UserError as error:
        raise UserError(f"'{folder / 'config.json'}': {error}") from error


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write config.json, whole or not at all."""
    write_whole(folder / "config.json", json.dumps(to_json(config), indent=2) + "\n")


class Lock:
    """One process per run folder: an advisory lock that the kernel drops when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"'{folder}' cannot be made ({error.strerror}): choose another --output") from error
        self.path = folder / "run.lock"

    def __enter__(self) -> Lock:
        try:
            self._file = self.path.open("a+")
        except OSError as error:
            raise UserError(f"'{self.path}' cannot be written ({error.strerror}): choose another --output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"'{self.path.parent}' is in use by {owner} (lock {self.path}): wait for it, or choose another --output"
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.truncate(0)
        if [p.name for p in self.path.parent.iterdir()] == [self.path.name]:  # nothing came of it
            self.path.unlink()
            self.path.parent.rmdir()
        self._file.close()

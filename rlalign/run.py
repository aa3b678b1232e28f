"""A handle on a run folder (see `rlalign.storage.run_folder` for its files)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config

if TYPE_CHECKING:
    from rlalign.envs.mdp import TextMDP
    from rlalign.evaluation.before_after import Comparison
    from rlalign.policies.base import Policy


class Run:
    """A run folder, finished or not.

    Args:
        folder: the run folder.
        exit_status: 128 + signal when the run was stopped before its end, else 0.

    Attributes:
        env, rewards: the environment and rewards that were passed as Python objects, else None. config.json holds only
            their names; `evaluate` uses the objects.
        comparison: before and after on held-out prompts, when the run was trained in this process, else None.

    Raises:
        UserError: when the folder holds no run.
    """

    def __init__(self, folder: str | Path, exit_status: int = 0) -> None:
        self.folder = Path(folder)
        self.exit_status = exit_status
        self.env: TextMDP | None = None
        self.rewards: Any = None
        self.comparison: Comparison | None = None
        if not (self.folder / "config.json").is_file():
            raise UserError(
                f"'{self.folder}' is not a run folder: it has no config.json; create one with rlalign train"
            )

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration that the run was started with."""
        return read_config(self.folder)

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """Columns of metrics.jsonl: name -> one value per logged step, None where a step has none."""
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
        """The trained policy, loaded from `policy/`.

        Raises:
            UserError: when the run has not written it yet.
        """
        from rlalign.policies.device import resolve_device
        from rlalign.policies.factory import load

        folder = self.folder / "policy"
        if not folder.is_dir():
            raise UserError(f"'{self.folder}' has no policy yet; finish it with rlalign train --resume {self.folder}")
        return load(folder, device=resolve_device(self.config.device))

    def build_mdp(self) -> TextMDP:
        """Return the run's environment, bound to the trained policy."""
        from rlalign.config.instantiate import bind, build_mdp

        return bind(build_mdp(self.config, env=self.env, rewards=self.rewards), self.policy)

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
        """Evaluate before (or a baseline) and after on held-out prompts, and write the result to report/.

        Args:
            split: train, validation or test.
            prompts: number of held-out prompts; None: as in the configuration.
            samples: completions per prompt; None: as in the configuration.
            baseline: a run folder, policy folder or policy name in place of the initial policy.
            folds: disjoint parts of the prompts for a cross-validated estimate; 0: none.
            env: another environment by name; or the environment object that the run was trained with, when this is
                another process.
            rewards: the reward objects that the run was trained with, when this is another process.

        Objects are stored in `env` and `rewards`, so that later calls need not repeat them.
        """
        from rlalign.evaluation.evaluate_run import evaluate_run

        if env is not None and not isinstance(env, str):
            self.env = env
        if rewards is not None:
            self.rewards = rewards
        return evaluate_run(
            self.folder,
            self.config,
            split=split,
            prompts=prompts,
            samples=samples,
            env=self.env if env is None else env,
            rewards=self.rewards,
            baseline=baseline,
            folds=folds,
        )

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

"""A handle on a run folder (see `rlalign.storage.run_folder` for its files)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.folder_kind import check_run
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import read_config

if TYPE_CHECKING:
    from rlalign.continual.transfer_matrix import TransferMatrix
    from rlalign.envs.mdp import TextMDP
    from rlalign.evaluation.before_after import Comparison
    from rlalign.evaluation.evaluate_best_of import BestOf
    from rlalign.export.export_run import Export
    from rlalign.policies.base import Policy


class Run:
    """A run folder, finished or not.

    Configuration, metrics, samples and policy are read from its files, also while it trains, and in any process::

        run = rlalign.Run("runs/reverse")
        run.metrics["reward/mean"]      # one value per logged step
        run.policy                      # the trained policy
        run.evaluate(split="test").differences["reward"]

    Args:
        folder: the run folder.
        exit_status: 128 + signal if the run was stopped before its end, else 0.
        trust: run the code that config.json names although somebody else wrote the folder, and the code of its policy's
            repository if the run did. It can do anything that you can.

    Attributes:
        folder: path of the run folder.
        exit_status: 128 + signal if the run was stopped before its end, else 0.
        env: the environment that was passed as a Python object, else None. config.json holds only its name; `evaluate`
            uses the object.
        rewards: the same for rewards.
        comparison: before and after on held-out prompts if the run was trained in this process, else None.
        trust: as the argument.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, folder: str | Path, exit_status: int = 0, *, trust: bool = False) -> None:
        self.folder = Path(folder)
        self.exit_status = exit_status
        self.trust = trust
        self.env: TextMDP | None = None
        self.rewards: Any = None
        self.comparison: Comparison | None = None
        check_run(self.folder)

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration that the run was started with, from config.json."""
        return read_config(self.folder, trust_remote_code=self.trust)

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """Columns of metrics.jsonl by name (`stage/name`), with one value per logged step, None if it has none."""
        rows = read_metrics(self.folder)
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Rows of samples.jsonl, some completions of each step with their prompts and rewards."""
        path = self.folder / "samples.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    @property
    def held_out(self) -> dict[str, Any]:
        """Content of report/held_out.json: the change on held-out recorded data. Empty without such data.

        `verdict` is a sentence. `metrics` has `before`, `after` and the paired `difference` of each measure.
        """
        path = self.folder / "report" / "held_out.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return content

    @cached_property
    def policy(self) -> Policy:
        """The trained policy, loaded from `policy/`.

        Raises:
            UserError: the run has not written it yet.
        """
        from rlalign.policies.device import resolve_device
        from rlalign.policies.factory import load

        folder = self.folder / "policy"
        if not folder.is_dir():
            raise UserError(f"'{self.folder}' has no policy yet; finish it with rlalign train --resume {self.folder}")
        return load(folder, device=resolve_device(self.config.device))

    def build_mdp(self) -> TextMDP:
        """Return the run's environment with its rewards, bound to the trained policy and its tokenizer.

        Raises:
            UserError: there is no policy yet, config.json names a Python object that this process has not received in
                `env` or `rewards`, or it names code and the folder is not trusted.
        """
        from rlalign.checks.data_pass import checked_mdp
        from rlalign.config.instantiate import bind, build_mdp

        self._checked_config(needs_parent=False)
        mdp = build_mdp(self.config, env=self.env, rewards=self.rewards)
        mdp = bind(mdp, self.policy, self.config.rollout.chat_template)
        return checked_mdp(self.config, mdp, self.policy) if self.config.on_bad_record == "drop" else mdp

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

        Both policies get the same prompts, the same settings of sampling and the seed of the run. The files are
        `evaluation-SPLIT.json` and `evaluation-SPLIT.png`. The objects `env` and `rewards` are stored, so that later
        calls need not repeat them.

        Args:
            split: train, validation or test.
            prompts: number of held-out prompts, at least 2; None: as in the configuration.
            samples: completions per prompt, at least 1; None: as in the configuration.
            baseline: a run folder, policy folder or policy name in place of the initial policy.
            folds: disjoint parts of the prompts for a cross-validated estimate, 2 to `prompts`; 0: none.
            env: another environment by name, scored with its own rewards; or the environment object that the run was
                trained with, if this is another process.
            rewards: rewards in place of those of the environment that `env` names, which are not stored; or the reward
                objects that the run was trained with, if this is another process.

        Returns:
            Both evaluations, with paired differences of all metrics.

        Raises:
            UserError: a name is unknown, a number is out of range, the run has no checkpoint, the run that it continues
                is gone, or its config.json names code and the folder is not trusted.
        """
        from rlalign.continual.chain import is_parent_gone
        from rlalign.evaluation.evaluate_run import evaluate_run

        config = self._checked_config(needs_parent=baseline is None)
        if env is not None and not isinstance(env, str):
            self.env = env
        other = isinstance(env, str)
        if rewards is not None and not other:
            self.rewards = rewards
        return evaluate_run(
            self.folder,
            config,
            split=split,
            prompts=prompts,
            samples=samples,
            env=self.env if env is None else env,
            rewards=rewards if other else self.rewards,
            baseline=baseline,
            folds=folds,
            from_files=baseline is not None and is_parent_gone(config, self.folder),
        )

    def transfer_matrix(
        self, envs: Sequence[str], *, split: str = "test", prompts: int | None = None, samples: int | None = None
    ) -> TransferMatrix:
        """Evaluate each policy of the chain of runs that this run continues, on held-out prompts of several tasks.

        The stages are the untrained start of the oldest run, each run of the chain, and this run. The matrix has the
        mean reward of each stage on each task, forgetting and backward transfer with their intervals. The file is
        `report/transfer-SPLIT.json`. What is not as the chain records it is a warning, and in `notes`.

        Args:
            envs: environments by name. One that a run of the chain trained on has that run's rewards.
            split: train, validation or test.
            prompts: number of held-out prompts per task, at least 2; None: as in the configuration.
            samples: completions per prompt, at least 1; None: as in the configuration.

        Raises:
            UserError: a run of the chain is missing or unfinished, a name is unknown, a number is out of range, a task
                needs another tokenizer, or a config.json names code and its folder is not trusted.
        """
        from rlalign.continual.transfer_matrix import transfer_matrix

        self._checked_config(needs_parent=False)
        matrix = transfer_matrix(
            self.folder, self.config, envs, split=split, prompts=prompts, samples=samples, trust=self.trust
        )
        for note in matrix.notes:
            warnings.warn(note, stacklevel=2)
        return matrix

    def best_of(
        self,
        n: int,
        *,
        split: str = "test",
        prompts: int | None = None,
        samples: int | None = None,
        rewards: Any = None,
    ) -> BestOf:
        """Estimate best-of-n of the initial and the trained policy on held-out prompts, for 1, 2, 4, ... and n.

        Of n completions, the one with the highest reward is kept. The estimates are unbiased; log n - (n - 1)/n is an
        upper bound of the KL to the policy that is sampled. The file is `report/best-of-SPLIT.json`.

        Args:
            n: largest number of completions among which one is kept, at least 2.
            split: train, validation or test.
            prompts: number of held-out prompts, at least 2; None: as in the configuration.
            samples: completions per prompt, at least 4 n; None: 4 n.
            rewards: specs of the reward that selects; the run's own are then measured too. None: the run's own.

        Raises:
            UserError: a name is unknown, a number is out of range, the run has no checkpoint, or its config.json names
                code and the folder is not trusted.
        """
        from rlalign.evaluation.evaluate_best_of import evaluate_best_of

        return evaluate_best_of(
            self.folder,
            self._checked_config(),
            n,
            split=split,
            prompts=prompts,
            samples=samples,
            rewards=self.rewards if rewards is None else rewards,  # objects that no name rebuilds
            env=self.env,
        )

    def export(
        self,
        output: str | Path,
        *,
        format: str = "hf",
        quantize: str = "",
        max_shard_size: str = "5GB",
        kl_bound: float | None = None,
        drop_layers: str = "",
        report: Callable[[str], None] = lambda line: None,
    ) -> Export:
        """Export the trained policy to files that other engines load, and return how close they are.

        The file is loaded back by its own loader in a fresh process, and its log-probs on held-out prompts are compared
        with those of the policy. A file outside of its bound is not kept. `export.json` has the result.

        Args:
            output: the folder to write, which must not hold files.
            format: hf, a folder of transformers, with the adapter beside it; or gguf, a file for llama.cpp.
            quantize: type of the weights. hf: int8, int8_dynamic, int4; gguf: f32, f16 (default), bf16, q8_0, q5_1,
                q5_0, q4_1, q4_0. "" for the format's own.
            max_shard_size: largest weight file of the format hf.
            kl_bound: nats per token in place of the bounds of the form; None: these.
            drop_layers: auto or a number: removes whole decoder layers first, the cheapest ones by the KL on validation
                prompts; auto removes layers while that is at most 0.1 nats per token. "": none.
            report: called with a line before each stage.

        Raises:
            UserError: the form is unknown, or this machine or the model does not support it; the output holds files, or
                the run that it continues is gone.
            FaultError: the file that was loaded back is not the policy within its bound. Nothing is left.
        """
        from rlalign.export.export_run import export_run

        return export_run(
            self.folder,
            self._checked_config(),
            Path(output),
            format=format,
            quantize=quantize,
            max_shard_size=max_shard_size,
            kl_bound=kl_bound,
            drop_layers=drop_layers,
            env=self.env,
            rewards=self.rewards,
            report=report,
        )

    def compare_forms(
        self,
        *,
        prompts: int | None = None,
        samples: int | None = None,
        forms: Sequence[str] = (),
        drop_layers: str = "",
        report: Callable[[str], None] = lambda line: None,
    ) -> dict[str, Any]:
        """Measure what each form of the policy costs, each loaded by its own loader in a fresh process.

        Reward and components on held-out test prompts, paired with the full policy; KL to it; size, memory and speed.
        The files are `report/forms.json`, `forms.md` and `forms.png`. Forms that the first holds already, from the same
        prompts and weights, are not measured again.

        Args:
            prompts: number of test prompts, at least 2; None: as in the configuration.
            samples: completions per prompt, at least 1; None: as in the configuration.
            forms: names of forms, such as gguf-q8_0; empty: all that this machine can make.
            drop_layers: auto or a number: adds the policy without whole layers; "": does not.
            report: called with a line before and after each form.

        Returns:
            `settings` and, in `forms`, a row per form; a row with `unavailable` has the reason in place of figures.

        Raises:
            UserError: the policy cannot be exported, a name is unknown, or a number is out of range.
        """
        from rlalign.export.compare_forms import compare_forms
        from rlalign.export.comparison_files import draw, write_markdown

        results = compare_forms(
            self.folder,
            self._checked_config(),
            prompts=prompts,
            samples=samples,
            forms=forms,
            drop_layers=drop_layers,
            env=self.env,
            rewards=self.rewards,
            report=report,
        )
        write_markdown(results, self.folder / "report" / "forms.md")
        draw(results, self.folder / "report" / "forms.png")
        return results

    def _checked_config(self, *, needs_parent: bool = True) -> TrainConfig:
        """Return the configuration for building the initial policy: that of a parent where its folder is now.

        Args:
            needs_parent: the initial policy is built. False: a parent that is gone keeps its recorded path.

        Raises:
            UserError: the parent is gone and needed, or the folder names code and is not trusted.
        """
        from rlalign.continual.chain import with_parent_found

        config = with_parent_found(self.config, self.folder, needed=needs_parent)
        self._check_code(config)
        return config

    def _check_code(self, config: TrainConfig) -> None:
        """Refuse code of a folder that is not trusted; warn of files that have changed since the training."""
        from rlalign.storage.trust import check_trust

        for change in check_trust(self.folder, config, trust=self.trust):
            warnings.warn(f"changed since the run was trained: {change}", stacklevel=3)

    def plot(self) -> Path:
        """Draw report/reward.png (the curves of metrics.jsonl) and return its path.

        Raises:
            UserError: the run has no metrics yet.
        """
        from rlalign.log.plots import plot_run

        return plot_run(self.folder)

    def __repr__(self) -> str:
        metrics = self.metrics
        rewards = [r for r in metrics.get("reward/mean") or metrics.get("eval/reward", []) if r is not None]
        curve = f", reward {rewards[0]:.3f} -> {rewards[-1]:.3f}" if rewards else ""
        return f"Run('{self.folder}', {len(metrics.get('step', []))} of {self.config.steps} steps{curve})"

    def _repr_png_(self) -> bytes | None:
        return self.plot().read_bytes() if self.metrics else None

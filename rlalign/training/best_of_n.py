"""The run of `best_of_n`: the base policy, and of n of its completions the one that the training reward keeps.

Nothing is trained. The run folder is that of a training run, so that best-of-n is a competitor in `rlalign compare`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.algorithms import BEST_OF_N
from rlalign.checks.data_pass import check_splits, checked_mdp
from rlalign.config.instantiate import build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint
from rlalign.config.size_limits import check_evaluation, check_sizes
from rlalign.config.validate import resolve, validate
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.best_of_n import kl_upper_bound
from rlalign.evaluation.best_of_n_curve import best_of_n_curve, check_best_of, kept_completions, sample
from rlalign.evaluation.evaluate import Evaluation, few_prompts
from rlalign.evaluation.evaluate_best_of import BestOf, write_best_of
from rlalign.log.trackers import Tracker
from rlalign.policies.base import Policy
from rlalign.policies.device import on_device
from rlalign.policies.measured_save import save_measured
from rlalign.publish.finish import finish
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.folder_kind import refuse_results
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, delete_results, write_config
from rlalign.training.experiment import build_checked_mdp, check_run, default_output
from rlalign.training.stop_request import StopRequest
from rlalign.training.validation import Validator


def run_best_of_n(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """Evaluate the base policy before and with best-of-n, and write a run folder.

    `report/evaluation.json` has the plain policy as `before`, the same as for other algorithms of the seed, and the
    unbiased estimates of best-of-n as `after` (see `rlalign.evaluation.best_of_n`), from 4 n completions per held-out
    prompt. `report/best-of-SPLIT.json` has 1, 2, 4, ... and n. `metrics.jsonl` has one line. A run that was interrupted
    starts again.

    Args:
        config: as for `rlalign.train`, with the algorithm best_of_n; `evaluation.best_of` is n.
        env, rewards: objects in place of the configuration's names; None: those of the names.
        quiet: print nothing.

    Returns:
        The run. Its `comparison` is None when a stop was requested before the end.

    Raises:
        UserError: a name or setting is invalid, or the folder holds a run already.
    """
    config = resolve(config)
    validate(config)
    mdp = build_checked_mdp(config, env=env, rewards=rewards)
    samples = check_best_of(mdp, config.evaluation.best_of, None)
    folder = Path(config.output or default_output(config))
    with RunLock(folder), StopRequest() as stop:
        _prepare_folder(folder, config)
        policy, mdp = build_policy(config, mdp)
        console = PlainConsole(quiet=quiet)
        for note in policy.notes:
            console.print(note, soft_wrap=True)
        mdp = checked_mdp(config, mdp, policy, folder=folder, console=console)
        check_splits(config, mdp)  # again, without the records that are dropped
        if few := few_prompts(mdp, config.evaluation.split):
            console.warn(few)
        check_sizes(config, mdp)  # again, with the length of the prompts
        check_evaluation(mdp, config.evaluation.split, config.evaluation.prompts, samples)
        config = replace(config, output=str(folder), resume=False, allow_change=False, trust_run=False)
        write_config(folder, config)
        try:
            with on_device(policy.device):
                return _evaluate(config, folder, policy, mdp, samples, stop, console)
        finally:
            mdp.reward.close()


def check_best_of_run(config: TrainConfig) -> None:
    """Raise UserError where `run_best_of_n` would, before any weight is loaded or file written."""
    check_run(config)
    check_best_of(build_checked_mdp(config), config.evaluation.best_of, None)


def _prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Delete what an interrupted run left. Raises UserError for a folder with other results or a finished run."""
    refuse_results(folder)
    if read_metrics(folder) and not config.resume:
        raise UserError(f"'{folder}' holds a run already; use another --output, or --resume to start the run again")
    if (folder / "report" / "evaluation.json").is_file():
        raise UserError(f"'{folder}' holds a finished run of {BEST_OF_N}; use another --output")
    delete_results(folder)


def _evaluate(
    config: TrainConfig,
    folder: Path,
    policy: Policy,
    mdp: TextMDP,
    samples: int,
    stop: StopRequest,
    console: PlainConsole,
) -> Run:
    evaluation = config.evaluation
    n = evaluation.best_of
    start = time.perf_counter()
    validator = Validator(config, policy, mdp)
    tasks = validator.validation_tasks
    before = validator.evaluate(tasks)
    console.print(f"before: reward {before.mean('reward'):+.3f} on {before.size}")
    if stop:
        return Run(folder, stop.exit_status)
    sampling = config.rollout.sampling
    drawn = sample(
        policy, mdp, tasks, samples=samples, sampling=sampling, seed=config.seed, sampler=config.rollout.sampler
    )
    after = kept_completions(drawn, n)
    curve = best_of_n_curve(drawn, n, policy=policy, mdp=mdp, tasks=tasks, sampling=sampling)
    if stop:
        return Run(folder, stop.exit_status)
    with closing(_log(config, folder, after, samples, time.perf_counter() - start)) as tracker:
        state = {"policy": dict(policy.trainable()), "progress": {}}  # `rlalign evaluate` reads the weights from it
        checkpoint.save(folder / "checkpoints", config.steps, state, config_hash=fingerprint(config), keep=config.keep)
        contexts = [mdp.prompt_ids(task) for task in tasks]
        console.print(save_measured(policy, folder / "policy", contexts), soft_wrap=True)
        selector = {name: weight for name, weight in mdp.reward.weights.items() if weight}
        path = folder / "report" / f"best-of-{evaluation.split}.json"
        write_best_of(BestOf(evaluation.split, len(tasks), selector, {"initial": curve}, path))
        exact = "" if curve.kl_exact is None else f", {curve.kl_exact[-1]:.3f} exact"
        console.print(
            f"best of {n}: an answer costs {n} samples; KL at most {curve.kl_bounds[-1]:.3f} nats per completion"
            f"{exact}",
            soft_wrap=True,
        )
        run = Run(folder)
        run.comparison = Comparison(before, after)
        write_comparison(folder, run.comparison)
        finish(config, folder, mdp, tracker, console)
        return run


def _log(config: TrainConfig, folder: Path, after: Evaluation, samples: int, seconds: float) -> Tracker:
    """Write the one line of metrics.jsonl, at the step at which the other runs of a study end."""
    n = config.evaluation.best_of
    metrics = {f"eval/{name}": after.mean(name) for name in after.metrics}
    metrics |= {"best_of_n/samples_per_answer": float(n), "best_of_n/samples_per_prompt": float(samples)}
    metrics |= {"best_of_n/kl_upper_bound": kl_upper_bound(n), "time/step": seconds}
    tracker = Tracker(folder, config)
    tracker.log(config.steps, metrics, [])
    return tracker

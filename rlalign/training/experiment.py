"""One experiment: open the folder, evaluate, train, evaluate again, write the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlalign.checks.data_pass import check_splits, checked_mdp, refuse_bad_records
from rlalign.config.defaults import ENV_OF_DATA
from rlalign.config.instantiate import build_mdp, build_policy, check_policy
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.size_limits import check_sizes
from rlalign.config.unused_settings import cautions, unused_settings
from rlalign.config.validate import resolve, validate
from rlalign.continual import check_continual, continuation
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.mixture.spec import MixtureSpec
from rlalign.errors import FaultError, OutputError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import few_prompts
from rlalign.log.plots import draw
from rlalign.log.tracking.protocol import check_trackers
from rlalign.policies.base import Policy
from rlalign.policies.device import on_device
from rlalign.policies.measured_save import save_measured
from rlalign.policies.memory import is_out_of_memory, loading
from rlalign.publish.finish import finish
from rlalign.recorded.items import hub_identity
from rlalign.rollout.task_results import check_task_order
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.folder_kind import refuse_results
from rlalign.storage.identity import identity_of, source_identity
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, write_config
from rlalign.teachers.check import check_teacher
from rlalign.teachers.make import make_teacher
from rlalign.tokenizers import HFTokenizer
from rlalign.training.advantage_report import report_advantage
from rlalign.training.distillation import distills
from rlalign.training.hooks import make_hooks
from rlalign.training.out_of_memory import memory_failure, out_of_memory
from rlalign.training.recorded_run import (
    check_columns,
    check_data,
    load_data,
    warn_of_prompts_of_parent,
    write_held_out,
)
from rlalign.training.resume_check import check_resume, check_source
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised import has_reference, no_reference
from rlalign.training.trainer import Trainer
from rlalign.training.way_out import clear_error


def train_run(
    config: TrainConfig,
    *,
    env: TextMDP | None = None,
    rewards: Any = None,
    callbacks: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Run an experiment: evaluate, train, evaluate, write the policy folder and the plots.

    Args:
        config: the configuration.
        env, rewards, callbacks, metrics: objects in place of the configuration's names.
        quiet: print nothing.

    Returns:
        The run. Its `comparison` is None when a stop was requested before the end.

    Raises:
        UserError: a name or setting is invalid; raised before weights are loaded.
    """
    config = resolve(config)
    folder = Path(config.output or default_output(config))
    console = PlainConsole(quiet=quiet)
    recorded_policy = config.policy
    if config.resume:
        config = check_resume(folder, config, console)  # before the import of code, which may have changed
    validate(config)
    hooks = make_hooks(config, callbacks=callbacks, metrics=metrics, report=console.warn)
    mdp = build_checked_mdp(config, env=env, rewards=rewards)  # unknown names fail before anything is written
    identity = {**identity_of(config), **source_identity(config, mdp), **hub_identity(config.data)}
    if config.resume:
        check_source(folder, config, identity, console)
    for key, reason in unused_settings(config).items():
        console.warn(f"{key} has no effect: {reason}")
    for caution in cautions(config):
        console.warn(caution)
    with RunLock(folder), StopRequest() as stop:
        if not config.resume:
            _check_unused(folder)
        config = replace(config, output=str(folder))
        policy, mdp = _build_policy(config, mdp)
        for note in policy.notes:
            console.print(note, soft_wrap=True)
        mdp = checked_mdp(config, mdp, policy, folder=folder, console=console)
        check_splits(config, mdp)  # again, without the records that are dropped
        few = few_prompts(mdp, "test" if config.evaluation.patience else config.evaluation.split)
        if few:
            console.warn(few)
        check_sizes(config, mdp)  # again, with the length of the prompts
        config, data = load_data(config, policy, mdp, console)
        warn_of_prompts_of_parent(config, mdp, console)
        if mdp.chat:
            console.print(
                f"prompts: user messages in the policy's chat template, turns of up to {mdp.max_new} tokens; "
                "--rollout.chat-template off for plain text",
                soft_wrap=True,
            )
        if isinstance(mdp.tokenizer, HFTokenizer):
            console.print(f"a turn ends at: {mdp.tokenizer.names(sorted(mdp.stop_ids))}", soft_wrap=True)
        if policy.path_summary:
            console.print(f"policy: {policy.path_summary}", soft_wrap=True)
        teacher = make_teacher(config, policy, mdp)
        former = continuation(config, folder, policy, console, resumed=config.resume)
        config = replace(config, policy=recorded_policy)  # of a moved parent too: the fingerprint holds it
        write_config(folder, replace(config, resume=False, allow_change=False, trust_run=False))
        report_advantage(config, folder, console)
        trainer = Trainer(
            config,
            folder,
            policy,
            mdp,
            data=data,
            teacher=teacher,
            former=former,
            hooks=hooks,
            stop=stop,
            quiet=quiet,
        )
        trainer.state.identity = identity
        try:
            with on_device(policy.device):
                return _train(trainer, console)
        except (Exception, SystemExit) as error:  # sys.exit of a user's code would end the process silently
            if isinstance(error, SystemExit) or not is_out_of_memory(error):
                raise clear_error(error, folder, _saved(folder)) from error
            failure = replace(memory_failure(error), phase="evaluation")
            saved = folder if checkpoint.complete(folder / "checkpoints") else None
            batcher = trainer.learner.micro_batcher
            raise out_of_memory(failure, config, policy, batcher, mdp.max_context, saved) from error
        finally:
            trainer.close()


def _saved(folder: Path) -> str:
    """Return how a run continues that an evaluation before or after its training has ended; empty: nothing is saved."""
    saved = checkpoint.complete(folder / "checkpoints")
    return f"saved as {saved[-1].name}: continue with rlalign train --resume {folder}" if saved else ""


def _build_policy(config: TrainConfig, mdp: TextMDP) -> tuple[Policy, TextMDP]:
    """Return the policy and the environment bound to it. Raises FaultError if the weights do not fit into memory."""
    fix = "a smaller policy, --model.adapter.kind lora if all weights are trained, or a device with more memory"
    with loading(f"the policy '{config.policy}' is loaded on {config.device}", fix):
        return build_policy(config, mdp)


def build_checked_mdp(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> TextMDP:
    """Return the environment of a run (see `build_mdp`).

    Raises:
        RecordError: no policy could use one of the first records.
        UserError: a split that the run reads has no tasks, supervised updates lack answers, no reward has a weight, or
            the sizes exceed this machine's memory.
    """
    check_columns(config)
    mdp = build_mdp(config, env=env, rewards=rewards)
    check_sizes(config, mdp, early=True)
    refuse_bad_records(config, mdp)
    check_data(config, mdp)
    check_teacher(config)
    check_trackers(config.tracking)
    check_continual(config)
    if distills(config) and config.evaluation.patience and not mdp.has_reward:
        raise UserError(
            f"evaluation.patience compares rewards, and {mdp.id} has none; use --evaluation.patience 0 or --reward"
        )
    check_task_order(config, mdp)
    for part in parts_of(mdp).values():
        if config.supervised.align_interval and not has_reference(part):
            raise UserError(no_reference(part))
    weights = mdp.reward.weights
    learns = any(weights.values()) or mdp.reward.scheduled or config.supervised.align_interval or distills(config)
    if weights and not learns:
        raise UserError(
            f"each reward of {mdp.id} has the weight 0 ({', '.join(weights)}), so there is nothing to learn; give one "
            "a weight, as in --reward length=1"
        )
    return mdp


def check_run(config: TrainConfig) -> None:
    """Raise UserError where `train_run` would, before any weight is loaded or file written."""
    check_policy(config, build_checked_mdp(config))


def _train(trainer: Trainer, console: PlainConsole) -> Run:
    state = trainer.state
    folder = state.folder
    validator = trainer.validator
    before = validator.evaluate(validator.final_tasks)  # before a resume, while the weights are the initial ones
    values_before = trainer.held_out.values() if trainer.held_out is not None else {}
    if trainer.config.resume:
        trainer.resume()
        console.print(f"resuming '{folder}' at step {state.step} of {trainer.config.steps}")
    elif trainer.mdp.has_reward:
        console.print(f"before: reward {before.mean('reward'):+.3f} on {before.size}")
    state.hooks.after_evaluation(0, before)
    trainer.begin()
    status = trainer.run()
    if state.step:
        draw(folder)
    if status:
        with suppress(OutputError):  # the terminal is lost with SIGHUP
            console.print(f"stopped at step {state.step} and saved; continue with: rlalign train --resume {folder}")
        return Run(folder, status)
    budget = state.kl_budget
    if budget.should_stop:
        console.print(
            f"ended at step {budget.step}: the KL of {budget.kl:.3g} nats per completion ({budget.key}) is above "
            f"evaluation.stop_kl {budget.budget:g}"
        )
    if state.hooks.should_stop:
        console.print(f"ended at step {state.step}: callback '{state.hooks.callbacks.stopped_by}' asked for it")
    best = state.early_stopping
    score = f"validation reward {best.reward:+.3f}"
    if trainer.held_out is not None and not trainer.mdp.has_reward:
        score = f"{trainer.held_out.criterion} {-best.reward:.3f}"
    if best.restore(state.policy):
        console.print(f"ended at step {state.step} with the weights of step {best.step}: {score}")
    elif best.step:
        console.warn(
            f"'{folder}/best/step-{best.step}' is missing, so the run ends with the weights of its last step instead "
            f"of those of the best validation ({score})"
        )
    contexts = [trainer.mdp.prompt_ids(task) for task in validator.final_tasks]
    console.print(_save_policy(state.policy, folder, contexts), soft_wrap=True)
    run = Run(folder)
    run.comparison = Comparison(before, validator.evaluate(validator.final_tasks))
    write_comparison(folder, run.comparison)
    state.hooks.after_evaluation(state.step, run.comparison.after)
    if trainer.held_out is not None and values_before:
        kind = trainer.held_out.data.kind
        write_held_out(folder, kind, values_before, trainer.held_out.values())
    finish(trainer.config, folder, trainer.mdp, state.tracker, console)
    return run


def _save_policy(policy: Policy, folder: Path, contexts: Sequence[Sequence[int]]) -> str:
    """Write `policy/` and return a line about it. Raises FaultError when the disk is full or the folder read-only."""
    try:
        return save_measured(policy, folder / "policy", contexts)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FaultError(
            f"'{folder / 'policy'}' cannot be written ({reason}); the run is saved: free space or make the folder "
            f"writable, then use rlalign train --resume {folder}"
        ) from error


def _check_unused(folder: Path) -> None:
    """Raise UserError when the folder of a new run holds another one, a study or a search."""
    refuse_results(folder)
    if not (folder / "config.json").is_file():
        return
    if read_metrics(folder) or checkpoint.complete(folder / "checkpoints"):
        raise UserError(f"'{folder}' holds a run already; use --resume to continue it, or another --output")


def default_output(config: TrainConfig) -> Path:
    """Return runs/ENV-POLICY-ALGORITHM-TIME, with a number appended where that exists."""
    env = config.env
    if config.data and env.partition("?")[0] == ENV_OF_DATA:
        env = config.data
    mixture = MixtureSpec.parse(env)
    words = [
        "+".join(mixture.envs)
        if mixture
        else Path(env.removeprefix(OBJECT).partition("?")[0]).stem.removesuffix("-v0"),
        Path(config.policy).name,
        config.algorithm,
    ]
    stem = "-".join(words).lower().replace(":", "-").replace(" ", "-") + time.strftime("-%Y%m%d-%H%M%S")
    path = Path("runs") / stem
    number = 1
    while path.exists():
        path = Path("runs") / f"{stem}-{number}"
        number += 1
    return path

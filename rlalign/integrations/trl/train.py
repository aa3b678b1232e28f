"""Training by TRL's GRPOTrainer and RLOOTrainer on an rlalign environment, with an ordinary run folder as the result.

The same as in a run of rlalign's own trainer: the initial weights, the prompts and their order, the ids of a prompt,
the reward, the length limit, the samples per step, the optimizer and its schedule, and the evaluation. TRL's own:
sampling (transformers.generate), advantages, loss, and the split of a rollout into minibatches.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlalign.checks.data_pass import checked_mdp, refuse_bad_records
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint
from rlalign.config.size_limits import check_sizes
from rlalign.config.validate import resolve, validate
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_stream import TaskStream
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import few_prompts
from rlalign.integrations.trl.bridge import trl_prompt
from rlalign.integrations.trl.record import Recorder
from rlalign.integrations.trl.settings import check_trl, not_transformers, trl_arguments
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.equal_rewards import warning_of
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.measured_save import save_measured
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.folder_kind import refuse_results
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, write_config
from rlalign.training.experiment import default_output
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.stop_request import StopRequest
from rlalign.training.validation import Validator
from rlalign.types import Task

_STALE = ("metrics.jsonl", "samples.jsonl", "checkpoints", "policy", "report")  # what a restarted run deletes


def train_trl(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """Run an experiment with TRL: evaluate, train, evaluate, write the policy folder and the plots.

    The run folder is that of `rlalign.train`, with the same metric keys. Equal to a run of rlalign's own trainer are
    the initial weights, the prompts and their order, the reward, the length limit, the optimizer and the evaluation.
    TRL computes samples, advantages and loss.

    A run that was interrupted starts again from step 0 with `config.resume`, because TRL's checkpoints do not contain a
    rollout that is reused.

    Args:
        config: as for `rlalign.train`, with the algorithm trl:grpo or trl:rloo.
        env, rewards: objects in place of the configuration's names; None: those of the names.
        quiet: print nothing.

    Returns:
        The run. Its `comparison` is None when a stop was requested before the end.

    Raises:
        UserError: for an environment of several turns, a policy that is not a transformers model, a setting that TRL
            does not support, or a folder that holds a run already.
    """
    config = resolve(config)
    validate(config)
    mdp = build_mdp(config, env=env, rewards=rewards)
    check_trl(config, mdp)
    refuse_bad_records(config, mdp)
    check_sizes(config, mdp, early=True)
    folder = Path(config.output or default_output(config))
    with RunLock(folder), StopRequest() as stop:
        _prepare_folder(folder, config)
        policy, mdp = build_policy(config, mdp)
        if not isinstance(policy, CausalPolicy):
            raise UserError(not_transformers(config))
        console = PlainConsole(quiet=quiet)
        for note in policy.notes:
            console.print(note, soft_wrap=True)
        mdp = checked_mdp(config, mdp, policy, folder=folder, console=console)
        few = few_prompts(mdp, config.evaluation.split)
        if few:
            console.warn(few)
        check_sizes(config, mdp)  # again, with the length of the prompts
        config = replace(config, output=str(folder), resume=False, allow_change=False)
        write_config(folder, config)
        try:
            return _train(config, folder, policy, mdp, stop, quiet)
        finally:
            mdp.reward.close()


def _prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Delete what an interrupted run left in the folder.

    Raises:
        UserError: for a folder with a study, a search or a finished run, or with an interrupted one unless
            `config.resume` is set.
    """
    refuse_results(folder)
    done = len(read_metrics(folder))
    if done and not config.resume:
        raise UserError(f"'{folder}' holds a run already: use another --output, or --resume to start the run again")
    if done >= config.steps and (folder / "report" / "evaluation.json").is_file():
        raise UserError(f"'{folder}' holds a finished run, which TRL cannot continue: use another --output")
    for name in _STALE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _train(
    config: TrainConfig, folder: Path, policy: CausalPolicy, mdp: TextMDP, stop: StopRequest, quiet: bool
) -> Run:
    console = PlainConsole(quiet=quiet)
    validator = Validator(config, policy, mdp)
    tasks = validator.validation_tasks
    before = validator.evaluate(tasks)
    console.print(f"before: reward {before.mean('reward'):+.3f} on {before.size}")
    tracker = Tracker(folder, config)
    alarms = AlarmMonitor(folder, console)
    every = config.evaluation.every
    with ProgressLine(config.steps, quiet=quiet) as line:

        def on_step(step: int, metrics: dict[str, float], samples: list[dict[str, Any]]) -> None:
            if every and step % every == 0:
                evaluation = validator.evaluate(tasks)
                metrics = metrics | {f"eval/{name}": evaluation.mean(name) for name in evaluation.metrics}
            metrics = metrics | alarms.update(step, metrics)
            tracker.log(step, metrics, samples)
            if warning := warning_of(step, alarms.rows, mdp, config.objective.baseline):
                console.warn(warning)
            line.show(step, metrics)

        recorder = Recorder(
            mdp,
            _ordered_tasks(config, mdp),
            group_size=config.rollout.group_size,
            updates=config.learner.epochs * config.learner.minibatches,
            on_step=on_step,
            stop=stop,
        )
        try:
            _run_trainer(config, policy, mdp, recorder)
        finally:
            tracker.close()
    if recorder.step:
        draw(folder)
    run = Run(folder, stop.exit_status)
    if stop:
        return run
    held_out = [mdp.prompt_ids(task) for task in tasks]
    console.print(save_measured(policy, folder / "policy", held_out), soft_wrap=True)
    # `rlalign evaluate` loads the trained weights from a checkpoint. TRL's optimizer state is not in it.
    state = {"policy": dict(policy.trainable()), "progress": {}}
    checkpoint.save(folder / "checkpoints", recorder.step, state, config_hash=fingerprint(config), keep=config.keep)
    run.comparison = Comparison(before, validator.evaluate(tasks))
    write_comparison(folder, run.comparison)
    return run


def _ordered_tasks(config: TrainConfig, mdp: TextMDP) -> list[Task]:
    """Return the tasks of the whole run in the order of rlalign's own trainer."""
    # Equal to `RngStreams.task_seed`; building RngStreams here would seed the global generators that TRL draws from.
    task_seed = int(np.random.SeedSequence(config.seed).generate_state(4)[3])
    return TaskStream(mdp.source, "train", seed=task_seed).next(config.steps * config.rollout.prompts)


def _run_trainer(config: TrainConfig, policy: CausalPolicy, mdp: TextMDP, recorder: Recorder) -> None:
    """Train the policy's model in place with TRL's trainer."""
    import datasets
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    grpo = config.algorithm == "trl:grpo"
    ln = config.learner
    bf16 = policy.compute_dtype == torch.bfloat16
    arguments = trl_arguments(config, max_new=mdp.max_new, cpu=policy.device.type == "cpu", bf16=bf16)
    parameters = list(policy.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=ln.lr, betas=(ln.beta1, ln.beta2), weight_decay=ln.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(ln, arguments["max_steps"]))
    rows = [{"prompt": trl_prompt(mdp.policy_prompt(task)), "task": i} for i, task in enumerate(recorder.tasks)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        _silenced(),
        _reference_on_disk(policy, scratch, arguments["beta"]),
        _stop_ids(policy.lm, mdp),
    ):
        trainer = (GRPOTrainer if grpo else RLOOTrainer)(
            model=policy.model,
            reward_funcs=[recorder],
            args=(GRPOConfig if grpo else RLOOConfig)(output_dir=scratch, **arguments),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=TrlTokenizer(mdp.tokenizer),
            callbacks=[recorder],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    # TRL replaces the model's forward by one with a fused head, and accelerate wraps one in autocast.
    # Neither must become part of a saved or copied model.
    for model in (policy.lm, policy.model):
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
    if "ref" in getattr(policy.model, "peft_config", {}):
        policy.model.delete_adapter("ref")  # TRL's copy of the initial adapter
    policy.eval()


@contextlib.contextmanager
def _stop_ids(lm: Any, mdp: TextMDP) -> Iterator[None]:
    """End the completions of transformers.generate at the environment's stop ids, and restore the model's special ids.

    TRL and the trainer of transformers also write the ids of their tokenizer into both configurations, which the policy
    folder would then contain in place of the model's own.
    """
    configs = (lm.config, lm.generation_config)
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    own = [(config, key, getattr(config, key)) for config in configs for key in keys if hasattr(config, key)]
    lm.generation_config.eos_token_id = sorted(mdp.stop_ids)
    try:
        yield
    finally:
        for config, key, value in own:
            setattr(config, key, value)


@contextlib.contextmanager
def _reference_on_disk(policy: CausalPolicy, folder: str, beta: float) -> Iterator[None]:
    """Save the initial model to `folder` for TRL's reference policy, and name the model after that folder meanwhile.

    TRL loads the reference by the model's name, and the name of a model in memory need not point to its weights.
    """
    if beta == 0.0 or policy.model is not policy.lm:  # TRL needs no reference, or disables the adapter to get it
        yield
        return
    name = policy.lm.config._name_or_path
    policy.lm.save_pretrained(folder)
    policy.lm.config._name_or_path = policy.lm.name_or_path = folder
    try:
        yield
    finally:
        policy.lm.config._name_or_path = policy.lm.name_or_path = name


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence the log messages, progress bars and warnings of transformers and TRL."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers

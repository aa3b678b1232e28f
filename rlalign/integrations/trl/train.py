"""TRL's GRPOTrainer and RLOOTrainer on one of our environments, leaving an ordinary run folder behind.

What is the same as in a run of our own: the weights at the start, the prompts and their order, the ids of a prompt, the
reward, the limit, the samples per step, the optimizer and its schedule, and the evaluation. What is TRL's: sampling
(transformers.generate), advantages, loss, and the updates made of them.
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
from rich.console import Console

from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint
from rlalign.config.validate import resolve, validate
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import TaskStream
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.integrations.trl.record import Recorder
from rlalign.integrations.trl.settings import check_trl, trl_arguments
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.policies.causal import CausalPolicy
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, write_config
from rlalign.training.experiment import default_output
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.stop_request import StopRequest
from rlalign.training.validation import Validator
from rlalign.types import Task

_LEFT_BEHIND = ("metrics.jsonl", "samples.jsonl", "checkpoints", "policy", "report")


def train_trl(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """A whole run by TRL: before, training, after, the policy's folder, the pictures.

    `run.comparison` is before / after on held-out prompts, None when the run was asked to stop before its end. A run
    that was cut short starts over with `config.resume`: TRL's own checkpoints do not hold a rollout that is reused.

    Args:
        config: as of `rlalign.train`; its algorithm is trl:grpo or trl:rloo, its objective what they are to compute.
        env, rewards: objects in place of the configuration's names.
        quiet: show nothing.

    Raises:
        UserError: for an environment of several turns, a policy that is no transformers model, or a setting that TRL
            has no counterpart of.
    """
    config = resolve(config)
    validate(config)
    mdp = build_mdp(config, env=env, rewards=rewards)
    check_trl(config, mdp)
    folder = Path(config.output or default_output(config))
    with RunLock(folder), StopRequest() as stop:
        _open(folder, config)
        policy, mdp = build_policy(config, mdp)
        if not isinstance(policy, CausalPolicy):
            raise UserError(
                f"policy '{config.policy}' is no transformers model, and TRL trains nothing else: "
                "use tiny, smollm2 or a model folder"
            )
        config = replace(config, output=str(folder), resume=False, allow_change=False)
        write_config(folder, config)
        try:
            return _train(config, folder, policy, mdp, stop, quiet)
        finally:
            mdp.reward.close()


def _open(folder: Path, config: TrainConfig) -> None:
    """Refuse a folder that holds a run, unless it is to start over and has not come to its end; clear what it left."""
    done = len(read_metrics(folder))
    if done and not config.resume:
        raise UserError(f"'{folder}' holds a run already: choose another --output, or --resume to start it over")
    if done >= config.steps and (folder / "report" / "evaluation.json").is_file():
        raise UserError(f"'{folder}' holds a finished run, and TRL's start over: choose another --output")
    for name in _LEFT_BEHIND:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _train(
    config: TrainConfig, folder: Path, policy: CausalPolicy, mdp: TextMDP, stop: StopRequest, quiet: bool
) -> Run:
    console = Console(quiet=quiet, highlight=False)
    validator = Validator(config, policy, mdp)
    tasks = validator.validation_tasks
    before = validator.evaluate(tasks)
    console.print(f"before: reward {before.mean('reward'):+.3f} on {len(before.prompts)} held-out prompts")
    tracker, watch = Tracker(folder, config), AlarmMonitor(folder, console)
    every = config.evaluation.every
    with ProgressLine(config.steps, quiet=quiet) as line:

        def on_step(step: int, metrics: dict[str, float], samples: list[dict[str, Any]]) -> None:
            if every and step % every == 0:
                now = validator.evaluate(tasks)
                metrics = metrics | {f"eval/{name}": now.mean(name) for name in now.metrics}
            metrics = metrics | watch.update(step, metrics)
            tracker.log(step, metrics, samples)
            line.show(step, metrics)

        recorder = Recorder(
            mdp,
            _order(config, mdp),
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
    policy.save_pretrained(folder / "policy")
    state = {
        "policy": dict(policy.trainable()),
        "progress": {},
    }  # from which `rlalign evaluate` takes the trained weights
    checkpoint.save(folder / "checkpoints", recorder.step, state, config_hash=fingerprint(config), keep=config.keep)
    run.comparison = Comparison(before, validator.evaluate(tasks))
    write_comparison(folder, run.comparison)
    return run


def _order(config: TrainConfig, mdp: TextMDP) -> list[Task]:
    """The prompts of the whole run, in the order in which our trainer takes them."""
    seed = int(np.random.SeedSequence(config.seed).generate_state(4)[3])
    return TaskStream(mdp.source, "train", seed=seed).next(config.steps * config.rollout.prompts)


def _run_trainer(config: TrainConfig, policy: CausalPolicy, mdp: TextMDP, recorder: Recorder) -> None:
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
    rows = [{"prompt": _prompt(task.prompt), "task": i} for i, task in enumerate(recorder.tasks)]
    policy.lm.generation_config.eos_token_id = sorted(mdp.stop_ids)
    with tempfile.TemporaryDirectory() as scratch, _quiet(), _start_on_disk(policy, scratch, arguments["beta"]):
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
    policy.lm.__dict__.pop("forward", None)  # TRL's fused head, which a saved or copied model must not carry along
    if "ref" in getattr(policy.model, "peft_config", {}):
        policy.model.delete_adapter("ref")  # TRL's copy of the adapter at the start
    policy.eval()


def _prompt(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


@contextlib.contextmanager
def _start_on_disk(policy: CausalPolicy, folder: str, beta: float) -> Iterator[None]:
    """Where TRL finds its reference: it loads one by the model's name, and weights in memory have none that is true."""
    if beta == 0.0 or policy.model is not policy.lm:  # none is needed, or it is the model with its adapter off
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
def _quiet() -> Iterator[None]:
    """Without the remarks of transformers and TRL to people who wrote the call themselves."""
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

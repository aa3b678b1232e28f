"""Training by TRL's trainers on an rlalign environment, with an ordinary run folder as the result.

The same as in a run of rlalign's own trainer: the initial weights, the prompts and their order, the ids of a prompt,
the reward, the length limit, the samples per step, the optimizer and its schedule, and the evaluation. TRL's own:
sampling (transformers.generate), advantages, loss, and the split of a rollout into minibatches. SFT, DPO and KTO sample
nothing: they read recorded data (see `offline`).
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import build_policy
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
from rlalign.integrations.trl.contexts import detach, reference_on_disk, silenced, stop_ids
from rlalign.integrations.trl.offline import train_on_data
from rlalign.integrations.trl.record import OnStep, Recorder
from rlalign.integrations.trl.settings import check_trl, not_transformers, trl_arguments
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.log.alarms import AlarmMonitor
from rlalign.log.equal_rewards import warning_of
from rlalign.log.plots import draw
from rlalign.log.progress import ProgressLine
from rlalign.log.trackers import Tracker
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.measured_save import save_measured
from rlalign.publish.finish import finish
from rlalign.recorded.items import hub_identity
from rlalign.recorded.read import RecordedData
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.folder_kind import refuse_results
from rlalign.storage.identity import Identity, identity_of, source_identity
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, delete_results, write_config
from rlalign.training.end_of_step import is_due
from rlalign.training.experiment import build_checked_mdp, default_output
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.recorded_run import HeldOutData, load_data, write_held_out
from rlalign.training.rng import task_seed
from rlalign.training.stop_request import StopRequest
from rlalign.training.validation import Validator
from rlalign.types import Task


def train_trl(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """Run an experiment with TRL: evaluate, train, evaluate, write the policy folder and the plots.

    The run folder is that of `rlalign.train`, with the same metric keys. Equal to a run of rlalign's own trainer are
    the initial weights, the prompts and their order, the reward, the length limit, the optimizer and the evaluation.
    TRL computes samples, advantages and loss. SFT, DPO and KTO train on the recorded data of `config.data`.

    A run that was interrupted starts again from step 0 with `config.resume`, because TRL's checkpoints do not contain a
    rollout that is reused.

    Args:
        config: as for `rlalign.train`, with the algorithm trl:grpo, trl:rloo, trl:sft, trl:dpo or trl:kto.
        env, rewards: objects in place of the configuration's names; None: those of the names.
        quiet: print nothing.

    Returns:
        The run. Its `comparison` is None when a stop was requested before the end.

    Raises:
        UserError: for an environment of several turns, a policy that is not a transformers model, a setting that TRL
            does not support, recorded data that cannot be used, or a folder that holds a run already.
    """
    config = resolve(config)
    validate(config)
    mdp = build_checked_mdp(config, env=env, rewards=rewards)
    check_trl(config, mdp)
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
        config, data = load_data(config, policy, mdp, console)
        identity = {**identity_of(config), **source_identity(config, mdp), **hub_identity(config.data)}
        config = replace(config, output=str(folder), resume=False, allow_change=False)
        write_config(folder, config)
        try:
            with closing(Tracker(folder, config)) as tracker:
                return _train(config, folder, policy, mdp, data, identity, tracker, stop, quiet)
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
    delete_results(folder)


def _train(
    config: TrainConfig,
    folder: Path,
    policy: CausalPolicy,
    mdp: TextMDP,
    data: RecordedData | None,
    identity: Identity,
    tracker: Tracker,
    stop: StopRequest,
    quiet: bool,
) -> Run:
    console = PlainConsole(quiet=quiet)
    validator = Validator(config, policy, mdp)
    tasks = validator.validation_tasks
    before = validator.evaluate(tasks)
    held_out = HeldOutData(config, policy, data) if data is not None else None
    values_before = held_out.values() if held_out is not None else {}
    if mdp.has_reward:
        console.print(f"before: reward {before.mean('reward'):+.3f} on {before.size}")
    alarms = AlarmMonitor(folder, console)
    with ProgressLine(config.steps, quiet=quiet) as line:

        def on_step(step: int, metrics: dict[str, float], samples: list[dict[str, Any]]) -> None:
            if is_due(step, config.evaluation.every):
                evaluation = validator.evaluate(tasks)
                metrics = metrics | {f"eval/{name}": evaluation.mean(name) for name in evaluation.metrics}
                metrics |= held_out.metrics() if held_out is not None else {}
            if data is None:  # the patterns of alarms and warnings are those of samples
                metrics = metrics | alarms.update(step, metrics)
            tracker.log(step, metrics, samples)
            if alarms.rows and (warning := warning_of(step, alarms.rows, mdp, config.objective.baseline)):
                console.warn(warning)
            line.show(step, metrics)

        if data is not None:
            steps = train_on_data(config, policy, mdp, data, on_step=on_step, stop=stop)
        else:
            steps = _train_on_rollouts(config, policy, mdp, on_step, stop)
    if steps:
        draw(folder)
    run = Run(folder, stop.exit_status)
    if stop:
        return run
    contexts = [mdp.prompt_ids(task) for task in tasks]
    console.print(save_measured(policy, folder / "policy", contexts), soft_wrap=True)
    # `rlalign evaluate` loads the trained weights from a checkpoint. TRL's optimizer state is not in it.
    state = {"policy": dict(policy.trainable()), "progress": {}}
    checkpoint.save(
        folder / "checkpoints", steps, state, config_hash=fingerprint(config), keep=config.keep, identity=identity
    )
    run.comparison = Comparison(before, validator.evaluate(tasks))
    write_comparison(folder, run.comparison)
    if held_out is not None and values_before:
        write_held_out(folder, held_out.data.kind, values_before, held_out.values())
    finish(config, folder, mdp, tracker, console)
    return run


def _ordered_tasks(config: TrainConfig, mdp: TextMDP) -> list[Task]:
    """Return the tasks of the whole run in the order of rlalign's own trainer."""
    stream = TaskStream(mdp.source, "train", task_seed(config.seed), config.tasks)
    return stream.next(config.steps * config.rollout.prompts)


def _train_on_rollouts(
    config: TrainConfig, policy: CausalPolicy, mdp: TextMDP, on_step: OnStep, stop: StopRequest
) -> int:
    """Train the policy's model in place with TRL's GRPOTrainer or RLOOTrainer; return the number of steps."""
    recorder = Recorder(
        mdp,
        _ordered_tasks(config, mdp),
        group_size=config.rollout.group_size,
        updates=config.learner.epochs * config.learner.minibatches,
        on_step=on_step,
        stop=stop,
    )
    _run_trainer(config, policy, mdp, recorder)
    return recorder.step


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
        silenced(),
        reference_on_disk(policy, scratch, arguments["beta"]),
        stop_ids(policy.lm, mdp),
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
    detach(policy)

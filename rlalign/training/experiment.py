"""One experiment: open the folder, evaluate, train, evaluate again, write the results."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.config.instantiate import build_mdp, build_policy, check_policy
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import differences, unsafe
from rlalign.config.unused_settings import unused_settings
from rlalign.config.validate import resolve, validate
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import held_out
from rlalign.log.plots import draw
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.storage.run_folder import RunLock, read_config, write_config
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised import build_demonstrations
from rlalign.training.trainer import Trainer


def train_run(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """Run an experiment: evaluate, train, evaluate, write the policy folder and the plots.

    Args:
        config: the configuration.
        env, rewards: objects in place of the configuration's names.
        quiet: print nothing.

    Returns:
        The run. Its `comparison` is None when a stop was requested before the end.

    Raises:
        UserError: a name or setting is invalid; raised before weights are loaded.
    """
    config = resolve(config)
    validate(config)
    mdp = build_checked_mdp(config, env=env, rewards=rewards)  # unknown names fail before anything is written
    folder = Path(config.output or default_output(config))
    console = Console(quiet=quiet, highlight=False)
    for key, reason in unused_settings(config).items():
        console.print(f"[yellow]warning[/]: {key} has no effect: {reason}", soft_wrap=True)
    with RunLock(folder), StopRequest() as stop:
        if config.resume:
            _check_resume(folder, config, console)
        else:
            _check_unused(folder)
        config = replace(config, output=str(folder))
        policy, mdp = build_policy(config, mdp)
        write_config(folder, replace(config, resume=False, allow_change=False))
        trainer = Trainer(config, folder, policy, mdp, stop=stop, quiet=quiet)
        try:
            return _train(trainer, console)
        finally:
            trainer.close()


def build_checked_mdp(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> TextMDP:
    """Return the environment of a run (see `build_mdp`). Raises UserError when supervised updates lack answers."""
    mdp = build_mdp(config, env=env, rewards=rewards)
    if config.supervised.align_interval:
        build_demonstrations(mdp, held_out(mdp, "train", 1))
    return mdp


def check_run(config: TrainConfig) -> None:
    """Raise UserError where `train_run` would, before any weight is loaded or file written."""
    check_policy(config, build_checked_mdp(config))


def _train(trainer: Trainer, console: Console) -> Run:
    state = trainer.state
    folder = state.folder
    validator = trainer.validator
    before = validator.evaluate(validator.final_tasks)  # before a resume, while the weights are the initial ones
    if trainer.config.resume:
        trainer.resume()
        console.print(f"resuming '{folder}' at step {state.step} of {trainer.config.steps}")
    else:
        console.print(f"before: reward {before.mean('reward'):+.3f} on {len(before.prompts)} held-out prompts")
    status = trainer.run()
    if state.step:
        draw(folder)
    if status:
        console.print(f"stopped at step {state.step} and saved; continue with: rlalign train --resume {folder}")
        return Run(folder, status)
    if state.early_stopping.restore(state.policy):
        best = state.early_stopping
        console.print(
            f"ended at step {state.step} with the weights of step {best.step}: validation reward {best.reward:+.3f}"
        )
    state.policy.save_pretrained(folder / "policy")
    run = Run(folder)
    run.comparison = Comparison(before, validator.evaluate(validator.final_tasks))
    write_comparison(folder, run.comparison)
    return run


def _check_unused(folder: Path) -> None:
    """Raise UserError when the folder of a new run holds another one."""
    if not (folder / "config.json").is_file():
        return
    if read_metrics(folder) or checkpoint.complete(folder / "checkpoints"):
        raise UserError(f"'{folder}' holds a run already; use --resume to continue it, or another --output")


def _check_resume(folder: Path, config: TrainConfig, console: Console) -> None:
    """Print the settings that differ from those of the run in the folder.

    Raises:
        UserError: when there is no run, when it has more steps, or when a difference decides the result.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"'{folder}' holds no run to resume; leave out --resume, or check --output")
    checkpoints = checkpoint.complete(folder / "checkpoints")
    done = checkpoint.step_of(checkpoints[-1]) if checkpoints else 0
    if config.steps < done:
        raise UserError(f"'{folder}' has done {done} steps already; use --steps {done} or more")
    changed = differences(read_config(folder), config)
    changed = {k: v for k, v in changed.items() if k not in ("resume", "output", "allow_change")}
    if "algorithm" in changed:
        raise UserError(
            f"this is a run of {changed['algorithm'][0]}, and the name alone changes nothing; start a new run, or "
            "change single axes with --objective.* and --allow-change"
        )
    for key, (old, new) in changed.items():
        console.print(f"changed: {key}  {old!r} -> {new!r}")
    refused = [k for k in changed if unsafe(k, config)]
    if refused and not config.allow_change:
        raise UserError(
            f"{', '.join(refused)} would make the continuation another experiment; start a new run, or insist with "
            "--allow-change"
        )


def default_output(config: TrainConfig) -> Path:
    """Return runs/ENV-POLICY-ALGORITHM-TIME, with a number appended where that exists."""
    words = [Path(config.env.removeprefix(OBJECT)).stem.removesuffix("-v0"), Path(config.policy).name, config.algorithm]
    stem = "-".join(words).lower().replace(":", "-").replace(" ", "-") + time.strftime("-%Y%m%d-%H%M%S")
    path = Path("runs") / stem
    number = 1
    while path.exists():
        path = Path("runs") / f"{stem}-{number}"
        number += 1
    return path

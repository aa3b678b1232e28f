"""One experiment from configuration to verdict: open the folder, measure, train, measure again, write it down."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import differences, unsafe
from rlalign.config.unused_settings import idle_settings
from rlalign.config.validate import resolve, validate
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, write_comparison
from rlalign.evaluation.evaluate import held_out
from rlalign.log.plots import draw
from rlalign.run import Lock, Run, read_config, write_config
from rlalign.storage import checkpoint
from rlalign.storage.jsonl import read_metrics
from rlalign.training.stop_request import StopRequest
from rlalign.training.supervised import demonstrations
from rlalign.training.trainer import Trainer


def train_run(
    config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False
) -> tuple[Run, Comparison | None]:
    """A whole run: before, training, after, the policy's folder, the pictures. Returns (run, before / after).

    The comparison is None when the run was asked to stop before its end. `env` and `rewards` are objects in place of
    the configuration's names.
    """
    config = resolve(config)
    validate(config)
    mdp = ready_mdp(config, env=env, rewards=rewards)  # unknown names are refused before anything is touched
    folder = Path(config.output or default_output(config))
    console = Console(quiet=quiet, highlight=False)
    for key, reason in idle_settings(config).items():
        console.print(f"[yellow]warning[/]: {key} has no effect: {reason}", soft_wrap=True)
    with Lock(folder), StopRequest() as stop:
        config = _open(folder, config, console)
        policy, mdp = build_policy(config, mdp)
        write_config(folder, replace(config, resume=False, allow_change=False))
        trainer = Trainer(config, folder, policy, mdp, stop=stop, quiet=quiet)
        try:
            return _train(trainer, console)
        finally:
            trainer.close()


def ready_mdp(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> TextMDP:
    """The environment of a run (see `build_mdp`), with answers where they are asked for. Raises UserError."""
    mdp = build_mdp(config, env=env, rewards=rewards)
    if config.supervised.align_interval:
        demonstrations(mdp, held_out(mdp, "train", 1))
    return mdp


def _train(trainer: Trainer, console: Console) -> tuple[Run, Comparison | None]:
    folder, config = trainer.folder, trainer.config
    if config.resume:
        # The start is needed for the comparison, and only now are the weights the start's.
        before = trainer.evaluate(trainer.unseen)
        trainer.resume()
        console.print(f"resuming '{folder}' at step {trainer.step} of {config.steps}")
    else:
        before = trainer.evaluate(trainer.unseen)
        console.print(f"before: reward {before.mean('reward'):+.3f} on {len(before.prompts)} held-out prompts")
    status = trainer.run()
    if trainer.step:
        draw(folder)
    if status:
        console.print(f"stopped at step {trainer.step} and saved; go on with: rlalign train --resume {folder}")
        return Run(folder, status), None
    if trainer.early_stopping.restore(trainer.policy):
        step, reward = trainer.early_stopping.step, trainer.early_stopping.reward
        console.print(
            f"ended at step {trainer.step}, keeping the weights of step {step}: validation reward {reward:+.3f}"
        )
    trainer.policy.save_pretrained(folder / "policy")
    comparison = Comparison(before, trainer.evaluate(trainer.unseen))
    write_comparison(folder, comparison)
    return Run(folder), comparison


def _open(folder: Path, config: TrainConfig, console: Console) -> TrainConfig:
    """Refuse a folder that holds another run, or this one with other settings. Returns the configuration to run."""
    exists = (folder / "config.json").is_file()
    if not config.resume:
        if exists and (read_metrics(folder) or checkpoint.complete(folder / "checkpoints")):
            raise UserError(
                f"'{folder}' holds a run already: add --resume to go on with it, or choose another --output"
            )
    elif not exists:
        raise UserError(f"'{folder}' holds no run to resume: leave out --resume, or check --output")
    else:
        if done := checkpoint.complete(folder / "checkpoints"):
            step = checkpoint.step_of(done[-1])
            if config.steps < step:
                raise UserError(f"'{folder}' has done {step} steps already: give --steps {step} or more")
        changed = differences(read_config(folder), config)
        changed = {k: v for k, v in changed.items() if k not in ("resume", "output", "allow_change")}
        if "algorithm" in changed:
            raise UserError(
                f"this is a run of {changed['algorithm'][0]}, and another name alone would change nothing: start a new "
                "run, or change single axes with --objective.* and --allow-change"
            )
        for key, (old, new) in changed.items():
            console.print(f"changed: {key}  {old!r} -> {new!r}")
        refused = [k for k in changed if unsafe(k, config)]
        if refused and not config.allow_change:
            raise UserError(
                f"{', '.join(refused)} would make the continuation another experiment: "
                "start a new run, or insist with --allow-change"
            )
    return replace(config, output=str(folder))


def default_output(config: TrainConfig) -> Path:
    """runs/ENV-POLICY-ALGORITHM-TIME, not taken yet."""
    words = [Path(config.env.removeprefix(OBJECT)).stem.removesuffix("-v0"), Path(config.policy).name, config.algorithm]
    stem = "-".join(words).lower().replace(":", "-").replace(" ", "-") + time.strftime("-%Y%m%d-%H%M%S")
    path, n = Path("runs") / stem, 1
    while path.exists():
        path, n = Path("runs") / f"{stem}-{n}", n + 1
    return path

"""The library in Python: `train` and `evaluate`, and the choice of the trainer that an algorithm names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.algorithms import BEST_OF_N, UNTRAINED
from rlalign.config.defaults import default_config
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import update
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison
from rlalign.exporting.export_run import Export
from rlalign.objective.spec import Objective
from rlalign.registry import load
from rlalign.run import Run

Rewards = str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | Mapping[str, float]

_TRAINERS = {
    "": ("rlalign.training.experiment:train_run", "rlalign.training.experiment:check_run"),
    BEST_OF_N: ("rlalign.training.best_of_n:run_best_of_n", "rlalign.training.best_of_n:check_best_of_run"),
    "trl": ("rlalign.integrations.trl.train:train_trl", "rlalign.integrations.trl.settings:check_run"),
}
"""Prefix of an algorithm (`trl:grpo`), or its name -> its trainer and the check of a configuration, loaded on use."""


def train(
    env: str | TextMDP | Any = None,
    policy: str | Path = TrainConfig.policy,
    algorithm: str = TrainConfig.algorithm,
    rewards: Rewards | None = None,
    *,
    objective: Objective | None = None,
    config: TrainConfig | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a policy and return its run.

    A run evaluates the initial policy on held-out prompts, trains, evaluates the trained policy on the same prompts and
    writes a run folder: configuration, metrics, samples, checkpoints, the policy in transformers' format and a report.
    By default the folder is `runs/ENV-POLICY-ALGORITHM-TIME`::

        run = rlalign.train("rlalign/Reverse-v0", "tiny", "grpo", steps=100, output="runs/reverse")
        print(run.comparison.verdict)

    SIGINT (Ctrl-C) ends a run after its current step, with a checkpoint. `resume=True` with the same `output` continues
    it.

    Args:
        env: an environment: an id (`rlalign/Reverse-v0`, or `reverse?max_length=6` with arguments), `module:Class`,
            `file.py:Class` or a `TextMDP`; or prompts: records, a data file, `hf:org/name` or a dataset, as in
            `make_mdp`. None: the prompts of `data` for an algorithm that learns from recorded data, else
            `rlalign/Sentiment-v0`.
        policy: a name of `rlalign list policies`, a model folder, or a hub id.
        algorithm: a preset of `rlalign list algorithms`; `trl:grpo` and `trl:rloo` for TRL's trainers; or `best_of_n`,
            which trains nothing. `sft`, `dpo`, `ipo`, `kto`, `simpo`, `trl:sft`, `trl:dpo` and `trl:kto` learn from the
            recorded data of the setting `data`, and a policy gradient from its logged rewards.
        rewards: names, specs (`name=weight`), functions of TRL's signature, or a mapping of specs to weights. They
            replace the environment's own. A list of specs that all begin with `+` adds to these.
        objective: a whole objective instead of the preset's.
        config: a whole configuration instead of the defaults for env, policy and algorithm. Their names are then
            ignored, except that a `TextMDP` or other object `env` replaces the configuration's environment.
        quiet: print nothing.
        settings: any other setting of `TrainConfig` by its name, dots as double underscores:
            `steps=200, seed=1, output="runs/a", learner__lr=1e-4, objective__kl__coef=0.0`.

    Returns:
        The run. Its `comparison` is None if the run was stopped before its end.

    Raises:
        UserError: a name or setting is invalid; raised before weights are loaded.
        RewardError: a reward with `on_error="fail"` failed.
        FaultError: the machine or the optimization failed: a full disk, non-finite updates in a row.
    """
    if not isinstance(policy, str | Path):
        raise UserError(f"policy: expected a name of rlalign list policies, a model folder or a hub id, got {policy!r}")
    if not isinstance(rewards, str | Mapping | Iterable | None) and not callable(rewards):
        raise UserError(f"rewards: expected names, specs, functions, or a mapping of them to weights, got {rewards!r}")
    policy = str(policy)
    env_object = None if env is None or isinstance(env, str) else _environment(env)
    name = env if env is None or isinstance(env, str) else _name_of(env)
    data = settings.get("data")
    base = config or default_config(name, policy, algorithm, None if data is None else str(data))
    if objective is not None:
        base = replace(base, objective=objective)
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    for key in ("output", "data"):
        if isinstance(changes.get(key), Path):
            changes[key] = str(changes[key])
    if rewards is not None:
        rewards = [rewards] if isinstance(rewards, str) or callable(rewards) else rewards
        pairs = list(rewards.items()) if isinstance(rewards, Mapping) else list(rewards)
        changes["rewards"] = [_spec_of(reward) for reward in pairs]
    run = train_config(update(base, changes), env=env_object, rewards=rewards, quiet=quiet)
    run.env = env_object
    run.rewards = rewards
    return run


def train_config(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False) -> Run:
    """Train by the trainer that the algorithm names: TRL's for `trl:...`, else this library's (see `train_run`)."""
    train, _ = _trainer(config)
    run: Run = load(train)(config, env=env, rewards=rewards, quiet=quiet)
    return run


def check_config(config: TrainConfig) -> None:
    """Raise UserError if a run of this configuration would, before any weight is loaded or file written."""
    _, check = _trainer(config)
    load(check)(config)


def _trainer(config: TrainConfig) -> tuple[str, str]:
    prefix, colon, _ = config.algorithm.partition(":")
    if colon or prefix in UNTRAINED:  # `module:attr` is a custom preset
        return _TRAINERS.get(prefix, _TRAINERS[""])
    return _TRAINERS[""]


def evaluate(run: Run | str | Path, *, split: str = "test", prompts: int | None = None) -> Comparison:
    """Evaluate a run before and after training on held-out prompts, and write the result to its report/.

    `Run.evaluate` has further arguments.

    Args:
        run: a run, or the path of a run folder.
        split: train, validation or test.
        prompts: number of held-out prompts, at least 2; None: as in the configuration.

    Returns:
        Both evaluations, with paired differences of all metrics.

    Raises:
        UserError: the folder holds no run, the split is unknown, or a number is out of range.
    """
    return (run if isinstance(run, Run) else Run(run)).evaluate(split=split, prompts=prompts)


def export(run: Run | str | Path, output: str | Path, *, format: str = "hf", quantize: str = "") -> Export:
    """Export the trained policy of a run to files that other engines load, and return how close they are.

    `Run.export` has further arguments, and describes what is checked.

    Args:
        run: a run, or the path of a run folder.
        output: the folder to write, which must not hold files.
        format: hf, a folder of transformers, with the adapter beside it; or gguf, a file for llama.cpp.
        quantize: type of the weights; "" for the format's own.

    Raises:
        UserError: the form is unknown, or this machine or the model does not support it; the output holds files.
        FaultError: the file that was loaded back is not the policy within its bound. Nothing is left.
    """
    return (run if isinstance(run, Run) else Run(run)).export(output, format=format, quantize=quantize)


def _environment(env: Any) -> TextMDP:
    return env if isinstance(env, TextMDP) else make_mdp(env)


def _name_of(env: Any) -> str:
    return OBJECT + str(getattr(env, "id", None) or type(env).__name__)


def _spec_of(reward: Any) -> str:
    """Return the spec of a reward for config.json, or `object:NAME` for one that cannot be imported again."""
    if isinstance(reward, str):
        return reward
    if isinstance(reward, tuple):
        return f"{_spec_of(reward[0])}={reward[1]}"
    module_name = getattr(reward, "__module__", "")
    attribute = getattr(reward, "__qualname__", "")
    module = sys.modules.get(module_name)
    # a script run as __main__ has no spec, and another process cannot import it
    if getattr(module, attribute, None) is reward and getattr(module, "__spec__", None):
        return f"{module_name}:{attribute}"
    return OBJECT + str(getattr(reward, "name", None) or getattr(reward, "__name__", type(reward).__name__))

"""The three jobs in Python: what `rlalign train` and `rlalign evaluate` do on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.config.defaults import default_config
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import update
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison
from rlalign.integrations import train_any
from rlalign.objective.spec import Objective
from rlalign.run import Run

Rewards = str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | Mapping[str, float]


def train(
    env: str | TextMDP | Any = TrainConfig.env,
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

    Args:
        env: an environment's id, a data file, or a TextMDP object; anything that `datasets` loads counts as data.
        policy: a name of `rlalign list policies`, a model folder, or a hub id.
        algorithm: a preset of `rlalign list algorithms`, or `trl:grpo` and `trl:rloo` for TRL's trainers.
        rewards: names, specs (`name=weight`), functions of TRL's signature, or a mapping of spec to weight; they
            replace the environment's own.
        objective: a whole objective instead of the preset's.
        config: a whole configuration instead of the defaults for env, policy and algorithm.
        quiet: show nothing.
        settings: any other setting of `TrainConfig` by its name, dots as double underscores:
            `steps=200, seed=1, output="runs/a", learner__lr=1e-4, objective__kl__coef=0.0`.

    Raises:
        UserError: for anything impossible, before weights are loaded.
    """
    if not isinstance(policy, str | Path):
        raise UserError(f"policy is {policy!r}: give a name of rlalign list policies, a model folder or a hub id")
    if not isinstance(rewards, str | Mapping | Iterable | None) and not callable(rewards):
        raise UserError(f"rewards is {rewards!r}: give names, specs, functions, or a mapping of them to weights")
    policy = str(policy)
    name, given = (env, None) if isinstance(env, str) else (_name_of(env), _environment(env))
    base = config or default_config(env=name, policy=policy, algorithm=algorithm)
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    if isinstance(changes.get("output"), Path):
        changes["output"] = str(changes["output"])
    if objective is not None:
        from dataclasses import replace

        base = replace(base, objective=objective)
    if rewards is not None:
        rewards = [rewards] if isinstance(rewards, str) or callable(rewards) else rewards
        pairs = list(rewards.items()) if isinstance(rewards, Mapping) else list(rewards)
        changes["rewards"] = [_spec_of(r) for r in pairs]
    run, comparison = train_any(update(base, changes), env=given, rewards=rewards, quiet=quiet)
    run.comparison = comparison
    run.objects = (given, rewards)  # what config.json can only name
    return run


def evaluate(run: Run | str | Path, *, split: str = "test", prompts: int | None = None) -> Comparison:
    """Before and after of a run on held-out prompts."""
    return (run if isinstance(run, Run) else Run(run)).evaluate(split=split, prompts=prompts)


def _environment(env: Any) -> TextMDP:
    from rlalign.envs.registration import make_mdp

    return env if isinstance(env, TextMDP) else make_mdp(env)


def _name_of(env: Any) -> str:
    return OBJECT + str(getattr(env, "id", None) or type(env).__name__)


def _spec_of(reward: Any) -> str:
    """How a reward is written into config.json: a spec that finds it again, or its name marked as an object's."""
    if isinstance(reward, str):
        return reward
    if isinstance(reward, tuple):
        return f"{_spec_of(reward[0])}={reward[1]}"
    where, what = getattr(reward, "__module__", ""), getattr(reward, "__qualname__", "")
    module = sys.modules.get(where)
    if getattr(module, what, None) is reward and getattr(module, "__spec__", None):  # a script's __main__ has no spec
        return f"{where}:{what}"
    return OBJECT + str(getattr(reward, "name", None) or getattr(reward, "__name__", type(reward).__name__))

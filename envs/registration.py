"""Registration of environments, here and with Gymnasium, and the functions that make them by name."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium as gym

from rlalign.envs.longest_prompt import LongestPrompt
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.parts import for_each
from rlalign.envs.mixture.spec import MixtureSpec
from rlalign.envs.spec import EnvSpec, build, env_id, find_env
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError, did_you_mean
from rlalign.registry import ENVS
from rlalign.rewards.weighted_sum import compose
from rlalign.types import Split

__all__ = [
    "env",
    "env_id",
    "find_env",
    "make_env",
    "make_mdp",
    "make_vec",
    "register_env",
    "register_gymnasium",
    "token_env",
    "token_vector_env",
]

Class = TypeVar("Class", bound=type[TextMDP])


def make_mdp(env: Any, *, rewards: Any = None, tokenizer: Any = None, **kwargs: Any) -> TextMDP:
    """Build the environment of a spec, with its rewards composed.

    Args:
        env: a registered id (`rlalign/Reverse-v0`, or just `reverse`), `module:Class` or `file.py:Class`, each with
            optional arguments (`reverse?max_length=6`); a TextMDP class; a TextMDP, which is copied; prompts: a data
            file, `hf:org/name`, records, a Dataset; or several of these with weights or steps, `sort=0.7,reverse=0.3`
            or `sort@0,reverse@200` (see `rlalign.envs.mixture.spec`).
        rewards: specs, or specs -> weights, that replace the environment's own (see `rlalign.rewards.compose`), of each
            environment of several; empty: no reward.
        tokenizer: replaces the environment's own (see `rlalign.tokenizers.as_tokenizer`).
        kwargs: arguments of the environment's class; for a TextMDP, its limits. They have precedence over those in the
            spec.

    Raises:
        UnknownNameError: the environment or a reward is not registered.
        UserError: an argument is unknown, or its value does not match its annotation.

    Example:
        >>> mdp = make_mdp("reverse?max_length=6", rewards=["exact_match", "token_match=0.5"])
        >>> mdp.id, mdp.max_new, mdp.reward.weights
        ('rlalign/Reverse-v0', 8, {'exact_match': 1.0, 'token_match': 0.5})
    """
    mixture = MixtureSpec.parse(env)
    if mixture is not None:
        parts = {name: make_mdp(spec, rewards=rewards, **kwargs) for name, spec in mixture.envs.items()}
        return Mixture(parts, mixture.weights, tokenizer=tokenizer)
    spec = EnvSpec.parse(env)
    mdp = build(spec.resolve(), {**spec.arguments, **kwargs}, tokenizer)
    if isinstance(mdp, Mixture):  # an object, whose environments have their rewards
        return for_each(mdp, lambda part: make_mdp(part, rewards=rewards))
    if rewards is not None:
        return mdp.with_reward(compose(rewards) if rewards else None)
    return mdp.with_reward(compose(mdp.rewards)) if mdp.rewards and not mdp.has_reward else mdp


def make_env(env: Any, *, split: Split = "train", render_mode: str | None = None, **kwargs: Any) -> TokenEnv:
    """Build a Gymnasium environment of one episode at a time, one token per step.

    `gymnasium.make("rlalign/Reverse-v0")` builds the same environment, in Gymnasium's wrappers.

    Args:
        env: as for `make_mdp`.
        split: the split that `reset` draws tasks from: train, validation or test.
        render_mode: "ansi" makes `render` return the context as text; None: no rendering.
        kwargs: further arguments of `make_mdp`: `rewards`, `tokenizer`, and arguments of the environment's class.

    Raises:
        UserError: as for `make_mdp`; or the reward has group scope, which needs several episodes.

    Example:
        >>> env = make_env("reverse", rewards="exact_match")
        >>> task = env.mdp.source.get("test", 0)
        >>> observation, info = env.reset(seed=0, options={"task": task})
        >>> for token in [*env.mdp.tokenizer.encode(task.columns["answer"]), env.mdp.tokenizer.eos_id]:
        ...     observation, reward, terminated, truncated, info = env.step(token)
        >>> reward, terminated, info["reward_components"]
        (1.0, True, {'exact_match': 1.0})
    """
    return TokenEnv(make_mdp(env, **kwargs), split=split, render_mode=render_mode)


def make_vec(env: Any, num_envs: int = 1, *, split: Split = "train", **kwargs: Any) -> TokenVectorEnv:
    """Build a Gymnasium vector environment of `num_envs` episodes in lockstep, without autoreset.

    Args:
        env: as for `make_mdp`.
        num_envs: B, the number of rows.
        split: the split that `reset` draws tasks from: train, validation or test.
        kwargs: further arguments of `make_mdp`: `rewards`, `tokenizer`, and arguments of the environment's class.

    Raises:
        UserError: as for `make_mdp`; or `num_envs` is below 1.

    Example:
        >>> envs = make_vec("reverse", num_envs=4)
        >>> observation, info = envs.reset(seed=0)
        >>> observation["tokens"].shape == (4, envs.mdp.max_context)
        True
        >>> segment = envs.step_tokens([[2, envs.mdp.tokenizer.eos_id]] * 4, [2] * 4)  # one letter and EOS per row
        >>> segment.terminated.tolist(), segment.rewards.shape
        ([True, True, True, True], (4, 2))
    """
    return TokenVectorEnv(make_mdp(env, **kwargs), num_envs, split=split)


# ---- registration ----


def env(name: str) -> Callable[[Class], Class]:
    """Return a class decorator that registers a TextMDP here and with Gymnasium.

    A second registration under one name replaces the first, so that a notebook cell can run again. `make_mdp` and
    `train` find the class by its name or its short form (`shout`), `gymnasium.make` by its name::

        @rlalign.env("my/Shout-v0")
        class Shout(rlalign.TextMDP):
            source = ["hello", "goodbye", "good morning"]
            rewards = {"regex?pattern=[A-Z ]+&full=true": 1.0}

    Args:
        name: `namespace/Name-v0`. It becomes the attribute `id` of the class.

    Raises:
        UserError: the decorated object is not a subclass of TextMDP, or Gymnasium refuses the name.
    """

    def register(cls: Class) -> Class:
        if not (isinstance(cls, type) and issubclass(cls, TextMDP)):
            raise UserError(f"@rlalign.env('{name}'): expected a subclass of rlalign.TextMDP, got {cls!r}")
        _register_gymnasium(name)
        cls.id = name
        ENVS.add(name, cls)
        return cls

    return register


def register_env(
    name: str, *, source: Any, rewards: Mapping[str, float] | None = None, description: str = "", **limits: Any
) -> type[TextMDP]:
    """Register a single-turn environment without writing a class.

    As in `rlalign.register_env("my/Sums-v0", source="sums.csv", rewards={"exact_match": 1.0}, max_new=8)`.

    Args:
        name: `namespace/Name-v0`.
        source: records, a data file, `hf:org/name`, a Dataset, or a function of an rng (see
            `rlalign.envs.task_sources.as_source`).
        rewards: default reward specs -> weights.
        description: one line for `rlalign list envs`.
        limits: `max_prompt` (by default the longest prompt of the source), `max_new`, `tokenizer` and `gold_score`, as
            in `TextMDP`.

    Returns:
        The new class.

    Raises:
        UserError: an argument is unknown, or Gymnasium refuses the name.
    """
    names = ("max_prompt", "max_new", "tokenizer", "gold_score")
    for argument in limits:
        if argument not in names:
            raise UserError(f"register_env has no argument '{argument}'.{did_you_mean(argument, names)}")
    tokenizer = limits.pop("tokenizer", None)
    body: dict[str, Any] = {"rewards": dict(rewards or {}), "description": description, **limits}
    # As a plain class attribute a function would become a method and receive `self` instead of the generator.
    body["source"] = staticmethod(source) if inspect.isfunction(source) else source
    body.setdefault("max_prompt", LongestPrompt())
    if tokenizer is not None:
        body["tokenizer"] = tokenizer
    body["__doc__"] = description or f"Prompts of {name}."
    return env(name)(type(re.sub(r"\W", "_", name), (TextMDP,), body))


# ---- Gymnasium ----


def register_gymnasium() -> None:
    """Register every environment with `gym.make` and `gym.make_vec`. Imports none of them.

    Warns about a name of an installed package that Gymnasium refuses.
    """
    for name in ENVS:
        try:
            _register_gymnasium(name)
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)


def token_env(env: str, **kwargs: Any) -> TokenEnv:
    """Build a TokenEnv: the entry point of `gym.make`."""
    return make_env(env, **kwargs)


def token_vector_env(env: str, num_envs: int = 1, render_mode: str | None = None, **kwargs: Any) -> TokenVectorEnv:
    """Build a TokenVectorEnv: the entry point of `gym.make_vec`. Rows are not rendered; the mode is ignored."""
    return make_vec(env, num_envs, **kwargs)


def _register_gymnasium(name: str) -> None:
    if name in gym.registry:
        return
    try:
        gym.register(
            name,
            entry_point="rlalign.envs.registration:token_env",
            vector_entry_point="rlalign.envs.registration:token_vector_env",
            kwargs={"env": name},
        )
    except gym.error.Error as error:
        raise UserError(f"expected an environment id such as my/Name-v0, got '{name}' ({error})") from error

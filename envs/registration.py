"""From a name to an environment: the class, its tasks, composed rewards, tokenizer; and Gymnasium's registry."""

from __future__ import annotations

import inspect
import re
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import gymnasium as gym

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import is_data
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UnknownNameError, UserError, did_you_mean
from rlalign.registry import ENVS, load
from rlalign.rewards.function import RewardFunction
from rlalign.tokenizers import as_tokenizer
from rlalign.typecheck import checked
from rlalign.types import Reward, Split

Class = TypeVar("Class", bound=type[TextMDP])
Rewards = Sequence[Any] | Mapping[Any, float]
_LIMITS = {"max_prompt", "max_new", "max_turns", "max_reply"}


def make_mdp(env: Any, *, rewards: Any = None, tokenizer: Any = None, **kwargs: Any) -> TextMDP:
    """The environment of a spec, ready to be played.

    Args:
        env: a registered id (`rlalign/Reverse-v0`, or just `reverse`), `module:Class` or `file.py:Class`, each with
            arguments if need be (`reverse?max_length=6`); a TextMDP class; a TextMDP (of which a copy is made); or
            prompts: a data file, `hf:org/name`, records, a Dataset.
        rewards: specs, or specs -> weights, in place of the environment's own.
        tokenizer: in place of the environment's own (see `rlalign.tokenizers.as_tokenizer`).
        kwargs: of the environment's class; for a TextMDP, its limits.

    Raises UnknownNameError for a name, UserError for an argument or a reward that there is not.
    """
    if isinstance(env, str) and not is_data(env):
        env, parameters = _parameterised(env)
        kwargs = {**parameters, **kwargs}
    found = find_env(env)
    if isinstance(found, TextMDP):
        if other := kwargs.keys() - _LIMITS:
            raise UserError(f"{found.id} is built already: give '{min(other)}' to its class")
        mdp = found.with_limits(**kwargs)
        mdp = mdp if tokenizer is None else mdp.with_tokenizer(tokenizer)
    else:
        mdp = _build(found, kwargs if tokenizer is None else {"tokenizer": tokenizer, **kwargs})
    if rewards is not None:
        mdp.reward = _compose(rewards)
    elif mdp.reward is None and mdp.rewards:
        mdp.reward = _compose(mdp.rewards)
    return mdp


def find_env(env: Any) -> type[TextMDP] | TextMDP:
    """What a spec names (see `make_mdp`): a class or a TextMDP. Builds nothing, reads no data.

    Raises UnknownNameError for a name that there is not, UserError for what is no environment.
    """
    if isinstance(env, str) and not is_data(env):
        env = _named(_parameterised(env)[0])
    if isinstance(env, TextMDP) or (isinstance(env, type) and issubclass(env, TextMDP)):
        return env
    if isinstance(env, type | RewardFunction) or inspect.isroutine(env):
        raise UserError(f"{env!r} is no environment: give a subclass of rlalign.TextMDP")
    name = env if isinstance(env, str) else type(env).__name__
    return type("Data", (TextMDP,), {"id": name, "source": env, "__doc__": f"Prompts of {name}."})


def make_env(env: Any, *, split: Split = "train", render_mode: str | None = None, **kwargs: Any) -> TokenEnv:
    """One episode at a time, a token a step; arguments as of `make_mdp`."""
    return TokenEnv(make_mdp(env, **kwargs), split=split, render_mode=render_mode)


def make_vec(env: Any, num_envs: int = 1, *, split: Split = "train", **kwargs: Any) -> TokenVectorEnv:
    """`num_envs` episodes in lockstep; arguments as of `make_mdp`."""
    return TokenVectorEnv(make_mdp(env, **kwargs), num_envs, split=split)


def token_env(env: str, **kwargs: Any) -> TokenEnv:
    """Gymnasium's entry point for `gym.make`."""
    return make_env(env, **kwargs)


def token_vector_env(env: str, num_envs: int = 1, render_mode: str | None = None, **kwargs: Any) -> TokenVectorEnv:
    """Gymnasium's entry point for `gym.make_vec`."""
    return make_vec(env, num_envs, **kwargs)


def register_gymnasium() -> None:
    """Make every registered environment known to `gym.make` and `gym.make_vec`. Loads none of them.

    An installed package that announces a name which Gymnasium cannot take gets a warning.
    """
    for name in ENVS:
        try:
            _register(name)
        except UserError as error:
            warnings.warn(str(error), stacklevel=2)


def env(name: str) -> Callable[[Class], Class]:
    """Class decorator: register a TextMDP as `namespace/Name-v0`."""

    def register(cls: Class) -> Class:
        if not (isinstance(cls, type) and issubclass(cls, TextMDP)):
            raise UserError(f"@rlalign.env('{name}') goes on a subclass of rlalign.TextMDP")
        _register(name)
        cls.id = name
        ENVS.add(name, cls)
        return cls

    return register


def register_env(
    name: str, *, source: Any, rewards: Mapping[str, float] | None = None, description: str = "", **limits: Any
) -> type[TextMDP]:
    """Register a single-turn environment without writing a class.

    Args:
        name: `namespace/Name-v0`.
        source: records, a data file, `hf:org/name`, a Dataset, or a function of an rng.
        rewards: default reward specs -> weights.
        description: one line for `rlalign list envs`.
        limits: max_prompt, max_new, tokenizer, gold_score.
    """
    known = ("max_prompt", "max_new", "tokenizer", "gold_score")
    for given in limits:
        if given not in known:
            raise UserError(f"register_env has no argument '{given}'.{did_you_mean(given, known)}")
    tokenizer = limits.pop("tokenizer", None)
    body: dict[str, Any] = {"rewards": dict(rewards or {}), "description": description, **limits}
    body["source"] = staticmethod(source) if inspect.isfunction(source) else source
    if tokenizer is not None:
        body["default_tokenizer"] = lambda self: as_tokenizer(tokenizer)
    body["__doc__"] = description or f"Prompts of {name}."
    return env(name)(type(re.sub(r"\W", "_", name), (TextMDP,), body))


def _register(name: str) -> None:
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
        raise UserError(f"'{name}' is no environment id: it must look like my/Name-v0 ({error})") from error


def _parameterised(spec: str) -> tuple[str, dict[str, Any]]:
    """`sentiment?source=imdb&max_new=24` as a name and arguments; a number, true or false is what looks so."""
    name, _, query = spec.partition("?")
    return name, {key: _number(value) for key, value in parse_qsl(query)}


def _number(text: str) -> int | float | bool | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _named(spec: str) -> Any:
    """What a registered id, a short form of it, or `where:Class` names."""
    if spec in ENVS:
        return ENVS.get(spec)
    if ":" in spec:
        return load(spec)
    if Path(spec).suffix:
        raise UserError(
            f"'{spec}': an environment file is named as {spec}:Class, a data file ends in .jsonl, .csv or .parquet"
        )
    matches = _registered(spec)
    if not matches:
        raise UnknownNameError("environment", spec, ENVS)
    if len(matches) > 1:
        raise UserError(f"'{spec}' may be {' or '.join(matches)}: say which")
    return ENVS.get(matches[0])


def _registered(spec: str) -> list[str]:
    """The ids that a short form may stand for."""
    short = {name: re.sub(r"-v\d+$", "", name.casefold()) for name in ENVS}
    wanted = spec.casefold().replace("_", "")  # guess_number is GuessNumber
    return [
        n
        for n, s in short.items()
        if wanted in (n.casefold(), n.casefold().rpartition("/")[2], s, s.rpartition("/")[2])
    ]


def env_id(spec: str) -> str:
    """A spec with the id of a registered environment in full; what is none stays as it is. Loads nothing."""
    name, question, arguments = spec.partition("?")
    matches = [name] if name in ENVS else _registered(name)
    return matches[0] + question + arguments if len(matches) == 1 else spec


def _build(cls: type[TextMDP], kwargs: dict[str, Any]) -> TextMDP:
    """An environment of a class. Raises UserError for arguments that it does not have."""
    known, name = _parameters(cls), cls.label()
    for given, value in kwargs.items():
        if given not in known and given in _parameters(TextMDP):
            raise UserError(
                f"{name} has no argument '{given}': its __init__ must take **kwargs and hand them to super().__init__"
            )
        if given not in known:
            raise UserError(f"{name} has no argument '{given}'.{did_you_mean(given, known)}")
        kwargs[given] = checked(known[given], value, f"{given} of {name}")
    return cls(**kwargs)


def _parameters(cls: type[TextMDP]) -> dict[str, Any]:
    """Names and annotations of the arguments of a class, through **kwargs up to TextMDP."""
    names: dict[str, Any] = {}
    for ancestor in cls.__mro__:
        if "__init__" in vars(ancestor):
            init = vars(ancestor)["__init__"]
            parameters = list(inspect.signature(init).parameters.values())[1:]
            hints = _hints(init)
            names = {p.name: hints.get(p.name) for p in parameters if p.kind is not p.VAR_KEYWORD} | names
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return names
    return names


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotated with what only a type checker sees: nothing is known of the types
        return {}


def _compose(rewards: Rewards) -> Reward | None:
    from rlalign.rewards.weighted_sum import compose

    return compose(rewards) if rewards else None

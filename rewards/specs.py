"""Specs: how a user names rewards, as `SPEC[?parameter=value&...][=WEIGHT]`, callables, pairs or mappings.

SPEC is a registered name, `package.module:function`, `path/to/file.py:function`, the folder of a reward model (with a
`/`, as in `./rm`) or the URL of a server. A value may contain `=`. Write `&`
as %26, `%` as %25, and the `=` of a final `=NUMBER` that is not a weight as %3D. The weight may be a schedule,
`length=0.5@0:1.0@100`, or a bound, `toxicity<=0.1` (see `rlalign.rewards.weights`). Write the `<` of a final `<=NUMBER`
that is not a bound as %3C.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards.function import RewardFunction, as_reward
from rlalign.rewards.reward_model.function import is_folder, is_url, reward_of
from rlalign.rewards.weights import (
    Constraint,
    Schedule,
    Weight,
    as_weight,
    is_schedule,
    is_weight,
    multiply,
    split_bound,
)

Spec = str | Callable[..., Any] | tuple[str | Callable[..., Any], Weight]
Specs = Spec | Iterable[Spec] | Mapping[str | Callable[..., Any], Weight]

WeightedReward = tuple[RewardFunction, Weight]

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def resolve(specs: Specs | None) -> list[WeightedReward]:
    """Return the rewards that specs name, under distinct names, with their weights (default 1).

    Raises:
        UnknownNameError: no reward has the name.
        UserError: a duplicate, an unknown parameter, or a weight that is not a number.
    """
    if specs is None:
        return []
    if isinstance(specs, str) or callable(specs) or _is_pair(specs):
        return _distinct([_resolve_one(specs)])
    if isinstance(specs, Mapping):
        return _distinct([_resolve_one((spec, weight)) for spec, weight in specs.items()])
    return _distinct([_resolve_one(spec) for spec in specs])


def _is_pair(specs: object) -> bool:
    return isinstance(specs, tuple) and len(specs) == 2 and isinstance(specs[1], int | float | Schedule | Constraint)


def _resolve_one(spec: Any) -> WeightedReward:
    if isinstance(spec, tuple | list):
        if len(spec) != 2:
            raise UserError(f"rewards: expected a pair, got {spec!r}; use (reward, weight)")
        item, weight = _resolve_one(spec[0])
        return item, multiply(weight, as_weight(spec[1], item.name), item.name)
    if not isinstance(spec, str):
        return as_reward(spec), 1.0
    spec, bound = split_bound(spec)
    name, parameters, weight_text = split(spec)
    item = _named(name)
    if parameters:
        checked = item.using(**dict.fromkeys(parameters))  # refuse unknown names before parsing values
        values = {
            key: _parse_value(text, checked.annotation(key), f"{item.name}?{key}") for key, text in parameters.items()
        }
        item = item.using(**values)
    weight = 1.0 if weight_text is None else as_weight(weight_text, item.name)
    return item, weight if bound is None else multiply(weight, bound, item.name)


def _named(name: str) -> RewardFunction:
    """Return the reward of a name: a registered one comes first, then a URL, a folder, `module:attr`."""
    if name not in REWARDS and (is_url(name) or is_folder(name)):
        return reward_of(name)
    if name not in REWARDS and Path(name).is_dir():
        raise UserError(f"no reward '{name}': a reward model in a folder is named with a /; use ./{name}")
    return as_reward(REWARDS.get(name), name.rpartition(":")[2])


def split(spec: str) -> tuple[str, dict[str, str], str | None]:
    """Return name, parameters and weight of a spec, all still texts.

    >>> split("regex?pattern=a=b&full=1=0.5")
    ('regex', {'pattern': 'a=b', 'full': '1'}, '0.5')

    Raises:
        UserError: a part after `?` has no `=`.
    """
    name, mark, query = spec.partition("?")
    weight: str | None = None
    if not mark:
        head, equals, tail = name.rpartition("=")
        # A `/` or `:` after the `=` means that the `=` belongs to a path; only a schedule also contains `:`.
        if equals and (is_schedule(tail) or not any(c in tail for c in "/:")):
            name = head
            weight = tail
        return name.strip(), {}, weight
    pairs = query.split("&")
    # The last pair has a weight if it holds a second `=` followed by a number.
    if pairs[-1].count("=") > 1 and is_weight(pairs[-1].rpartition("=")[2]):
        pairs[-1], _, weight = pairs[-1].rpartition("=")
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"reward '{spec}': expected a parameter, got '{pair}'; use {name}?parameter=value")
        parameters[key.strip()] = unquote(value)
    return name.strip(), parameters, weight


def _parse_value(text: str, annotation: Any, where: str) -> Any:
    """Convert a parameter's text to the annotated type; without annotation, to int, float or bool if it parses."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    if len(members) == 1 and len(get_args(annotation)) == 2:  # `int | None`: a text is never None
        annotation = members[0]
    if annotation is bool:
        if text.lower() not in _BOOLEANS:
            raise UserError(f"{where}: expected true or false, got '{text}'; use {where}=true")
        return _BOOLEANS[text.lower()]
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            example = "20" if annotation is int else "0.5"
            raise UserError(
                f"{where}: expected {annotation.__name__}, got '{text}'; use a number, as in {where}={example}"
            ) from None
    if re.Pattern[str] in members:
        try:
            re.compile(text)
        except re.error as error:
            raise UserError(
                rf"{where}: expected a regular expression, got '{text}' ({error}); use \ before a special character"
            ) from None
    if annotation is None:
        for convert in (int, float, lambda t: _BOOLEANS[t.lower()]):
            try:
                return convert(text)
            except (ValueError, KeyError):
                continue
    return text


def _distinct(items: list[WeightedReward]) -> list[WeightedReward]:
    """Return the rewards under distinct names; a function that occurs twice gets its parameters into its name."""
    counts = Counter(item.name for item, _ in items)
    named = []
    for item, weight in items:
        repeated = counts[item.name] > 1 and item.parameters
        named.append((replace(item, name=_label(item)) if repeated else item, weight))
    seen: set[str] = set()
    for item, _ in named:
        if item.name in seen:
            raise UserError(
                f"rewards: expected distinct names, got '{item.name}' twice; use it once, with the sum of the weights"
            )
        seen.add(item.name)
    return named


def _label(item: RewardFunction) -> str:
    return f"{item.name}[{','.join(f'{key}={value}' for key, value in sorted(item.parameters.items()))}]"

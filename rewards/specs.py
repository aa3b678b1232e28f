"""Reading how a user names rewards: `SPEC[?parameter=value&...][=WEIGHT]`, callables, pairs, mappings.

SPEC is a registered name, `package.module:function` or `path/to/file.py:function`. A value may contain `=`; write `&`
as %26, `%` as %25, and a final `=NUMBER` that is no weight with %3D. Instead of a weight there may be a schedule,
`length=0.5@0:1.0@100`, or a bound, `toxicity<=0.1` (see `rlalign.rewards.weights`; write a final `<=` that is none with
%3C).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args
from urllib.parse import unquote

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards.function import RewardFunction, as_reward
from rlalign.rewards.weights import Constraint, Schedule, Weight, as_weight, is_points, split_bound, times

Spec = str | Callable[..., Any] | tuple[str | Callable[..., Any], Weight]
Specs = Spec | Iterable[Spec] | Mapping[str | Callable[..., Any], Weight]

Weighted = tuple[RewardFunction, Weight]


def resolve(specs: Specs | None) -> list[Weighted]:
    """The rewards that specs name, with their weights (1 unless given), under distinct names.

    Raises UnknownNameError, or UserError for a duplicate, an unknown parameter or a weight that is none.
    """
    if specs is None:
        return []
    if isinstance(specs, str) or callable(specs) or _is_pair(specs):
        return _distinct([_one(specs)])
    if isinstance(specs, Mapping):
        return _distinct([_one((spec, weight)) for spec, weight in specs.items()])
    return _distinct([_one(spec) for spec in specs])


def _is_pair(specs: object) -> bool:
    return isinstance(specs, tuple) and len(specs) == 2 and isinstance(specs[1], int | float | Schedule | Constraint)


def _one(spec: Any) -> Weighted:
    if isinstance(spec, tuple | list):
        if len(spec) != 2:
            raise UserError(f"reward {spec!r} is no pair: give (reward, weight)")
        item, weight = _one(spec[0])
        return item, times(weight, as_weight(spec[1], item.name), item.name)
    if not isinstance(spec, str):
        return as_reward(spec), 1.0
    spec, bound = split_bound(spec)
    name, parameters, weight_text = split(spec)
    item = as_reward(REWARDS.get(name))
    if parameters:
        known = item.using(**dict.fromkeys(parameters))  # refuse unknown names before reading values
        item = item.using(**{k: _value(v, known.annotation(k), f"{item.name}?{k}") for k, v in parameters.items()})
    weight = 1.0 if weight_text is None else as_weight(weight_text, item.name)
    return item, weight if bound is None else times(weight, bound, item.name)


def split(spec: str) -> tuple[str, dict[str, str], str | None]:
    """Name, parameters and weight, all still texts, of a spec.

    >>> split("regex?pattern=a=b&full=1=0.5")
    ('regex', {'pattern': 'a=b', 'full': '1'}, '0.5')
    """
    name, mark, query = spec.partition("?")
    weight: str | None = None
    if not mark:
        head, equals, tail = name.rpartition("=")
        if equals and (is_points(tail) or not any(c in tail for c in "/:")):  # else the `=` belongs to a path
            name, weight = head, tail
        return name.strip(), {}, weight
    pairs = query.split("&")
    if pairs[-1].count("=") > 1 and _is_weight(pairs[-1].rpartition("=")[2]):
        pairs[-1], _, weight = pairs[-1].rpartition("=")
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"reward '{spec}': '{pair}' is no parameter: write {name}?parameter=value")
        parameters[key.strip()] = unquote(value)
    return name.strip(), parameters, weight


def _is_weight(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return is_points(text)
    return True


def _value(text: str, kind: Any, where: str) -> Any:
    """A parameter's text as the type that the function's signature gives it; by its look where there is none."""
    members = [k for k in get_args(kind) if k is not type(None)]
    if len(members) == 1 and len(get_args(kind)) == 2:  # `int | None`: a text is never None
        kind = members[0]
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise UserError(f"{where}: '{text}' is neither true nor false")
        return _TRUTH[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise UserError(f"{where}: '{text}' is no {kind.__name__}") from None
    if re.Pattern[str] in members:
        try:
            re.compile(text)
        except re.error as error:
            raise UserError(f"{where}: '{text}' is no regular expression ({error})") from None
    if kind is None:
        for convert in (int, float, lambda t: _TRUTH[t.lower()]):
            try:
                return convert(text)
            except (ValueError, KeyError):
                continue
    return text


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _distinct(items: list[Weighted]) -> list[Weighted]:
    """Distinct component names: where one function comes twice, its parameters become part of the name."""
    counts = Counter(item.name for item, _ in items)
    named = [(replace(i, name=_label(i)) if counts[i.name] > 1 and i.parameters else i, w) for i, w in items]
    seen: set[str] = set()
    for item, _ in named:
        if item.name in seen:
            raise UserError(f"reward '{item.name}' is given twice: give it once, with the sum of the weights")
        seen.add(item.name)
    return named


def _label(item: RewardFunction) -> str:
    return f"{item.name}[{','.join(f'{k}={v}' for k, v in sorted(item.parameters.items()))}]"

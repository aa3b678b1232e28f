"""Rewards for JSON: whether it is any, and whether its fields are the wanted ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.columns import per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "any": (dict, list, str, int, float, bool, type(None)),
}


def parse_json(text: str) -> Any:
    """The JSON value that is the whole text, blanks around it left out.

    Raises ValueError for anything else: NaN and Infinity (Python would take them), a key given twice, nesting without
    end.
    """
    try:
        return json.loads(text.strip(), parse_constant=_no_constant, object_pairs_hook=_distinct_keys)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice")
    return made


@reward("json_valid", timeout_s=None, range=(0.0, 1.0))
def json_valid(completions: Sequence[Any], *, kind: str = "object", **columns: Any) -> list[float]:
    """1 where the whole completion is one JSON value of a kind (object, array or any), else 0.

    Blanks around it are left out; text or a code fence around it is not. Range: {0, 1}. Cost: about 200,000 texts a
    second on one core. Deterministic. Hacked by: `{}`; pair it with `json_fields`.
    Raises UserError for an unknown kind.
    """
    if kind not in _KINDS:
        raise UserError(f"reward 'json_valid': unknown kind '{kind}'.{did_you_mean(kind, _KINDS)}")
    return [float(_is_kind(text_of(c), _KINDS[kind])) for c in completions]


def _is_kind(text: str, kinds: tuple[type, ...]) -> bool:
    try:
        return isinstance(parse_json(text), kinds)
    except ValueError:
        return False


@reward("json_fields", timeout_s=None, range=(0.0, 1.0))
def json_fields(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """F1 of the fields of a JSON completion against `answer` (a dictionary, list or JSON text); 0 where it is no JSON.

    A field is a path and a plain value, `{"who": {"name": "Li"}}` has one, `who.name = Li`. Values agree when they are
    equal (1 and 1.0 are, "1" and 1 are not), texts with the blanks around them left out. Plain values in a list count
    in any order. None without an answer. Range: [0, 1]. Cost: about 40,000 texts a second on one core.
    Deterministic. Hacked by: leaving out the fields that are hard, which costs recall only.
    Raises UserError for an answer that is no JSON.
    """
    pairs = zip(completions, per_sample(answer, len(completions)), strict=True)
    return [None if a is None else _field_f1(text_of(c), _wanted(a)) for c, a in pairs]


def _wanted(answer: Any) -> Any:
    if not isinstance(answer, str):
        return answer
    try:
        return parse_json(answer)
    except ValueError as error:
        raise UserError(f"reward 'json_fields': the answer {answer[:60]!r} is no JSON ({error})") from None


def _field_f1(text: str, wanted: Any) -> float:
    try:
        said = Counter(fields_of(parse_json(text)))
    except (ValueError, RecursionError):
        return 0.0
    return f1(said, Counter(fields_of(wanted)))


def f1(said: Counter[Any], wanted: Counter[Any]) -> float:
    """2 · common / (said + wanted) of two multisets; 1 where both are empty."""
    both = said.total() + wanted.total()
    return 2 * (said & wanted).total() / both if both else 1.0


def fields_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, plain value) of everything in a JSON value; an empty object or list is a field of its own.

    >>> list(fields_of({"a": 1, "b": [2, {"c": "x "}]}))
    [('.a', 1), ('.b[]', 2), ('.b[1].c', 'x')]
    """
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from fields_of(part, f"{path}.{key}")
    elif isinstance(value, list | tuple) and value:
        for i, part in enumerate(value):
            yield from fields_of(part, f"{path}[{i if isinstance(part, Mapping | list | tuple) else ''}]")
    elif isinstance(value, bool):
        yield path, str(value)  # else True would be equal to 1
    else:
        yield (
            path,
            value.strip() if isinstance(value, str) else str(value) if isinstance(value, Mapping | list) else value,
        )

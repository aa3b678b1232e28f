"""Rewards for JSON: validity, and agreement of its fields with a reference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.columns import per_sample, score_answers
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "any": (dict, list, str, int, float, bool, type(None)),
}


def parse_json(text: str) -> Any:
    """Return the JSON value that the whole text encodes, ignoring surrounding whitespace.

    Raises:
        ValueError: anything else, including NaN and Infinity (which Python accepts), a duplicate key, and nesting
            beyond Python's recursion limit.
    """
    try:
        return json.loads(text.strip(), parse_constant=_refuse_constant, object_pairs_hook=_distinct_keys)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("duplicate key")
    return fields


@reward("json_valid", timeout_s=None, range=(0.0, 1.0))
def json_valid(completions: Sequence[Any], *, kind: str = "object", **columns: Any) -> list[float]:
    """Return 1 where the whole completion is one JSON value of a kind (object, array or any), else 0.

    Surrounding whitespace is ignored; a text or a code fence around the value makes it invalid.

    Range: {0, 1}.
    Cost: about 200,000 texts per second on one core.
    Deterministic.
    Hacked by: `{}`; pair it with `json_fields`.

    Args:
        completions: B texts or conversations.
        kind: "object", "array" or "any".
        columns: ignored.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in _KINDS:
        raise UserError(
            f"reward 'json_valid', kind: expected one of {', '.join(_KINDS)}, got '{kind}'.{did_you_mean(kind, _KINDS)}"
        )
    return [float(_is_kind(text_of(completion), _KINDS[kind])) for completion in completions]


def _is_kind(text: str, kinds: tuple[type, ...]) -> bool:
    try:
        return isinstance(parse_json(text), kinds)
    except ValueError:
        return False


@reward("json_fields", timeout_s=None, range=(0.0, 1.0))
def json_fields(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """Return the F1 of the fields of a JSON completion against `answer` (dictionary, list or JSON text); 0 if not JSON.

    A field is a path and a plain value: `{"who": {"name": "Li"}}` has one, `who.name = Li`. Values agree if they are
    equal (1 and 1.0 are, "1" and 1 are not); whitespace around texts is ignored. Plain values in a list count in any
    order.

    Range: [0, 1]; None without an answer.
    Cost: about 40,000 texts per second on one core.
    Deterministic.
    Hacked by: leaving out the fields that are hard, which lowers recall only.

    Args:
        completions: B texts or conversations.
        answer: column of references, each a dictionary, a list or JSON text; or one as a parameter.
        columns: ignored.

    Raises:
        UserError: the answer is a text that is not JSON.
    """
    answers = per_sample(answer, len(completions))
    return score_answers(completions, answers, lambda text, reference: _field_f1(text, _reference_value(reference)))


def _reference_value(answer: Any) -> Any:
    if not isinstance(answer, str):
        return answer
    try:
        return parse_json(answer)
    except ValueError as error:
        raise UserError(
            f"reward 'json_fields': expected an answer in JSON, got {answer[:60]!r} ({error}); "
            "use a dictionary, a list or a JSON text"
        ) from None


def _field_f1(text: str, reference: Any) -> float:
    try:
        predicted = Counter(fields_of(parse_json(text)))
    except (ValueError, RecursionError):
        return 0.0
    return f1(predicted, Counter(fields_of(reference)))


def f1(predicted: Counter[Any], reference: Counter[Any]) -> float:
    """Return 2 · common / (predicted + reference) of two multisets; 1 if both are empty."""
    size = predicted.total() + reference.total()
    return 2 * (predicted & reference).total() / size if size else 1.0


def fields_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, plain value) for all parts of a JSON value; an empty object or list is itself a field.

    >>> list(fields_of({"a": 1, "b": [2, {"c": "x "}]}))
    [('.a', 1), ('.b[]', 2), ('.b[1].c', 'x')]
    """
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from fields_of(part, f"{path}.{key}")
    elif isinstance(value, list | tuple) and value:
        for i, part in enumerate(value):
            # Plain values of a list have no index, so that their order does not count.
            index = i if isinstance(part, Mapping | list | tuple) else ""
            yield from fields_of(part, f"{path}[{index}]")
    elif isinstance(value, bool | Mapping | list):
        # Texts, because True would equal 1, and an empty object or list cannot be counted.
        yield path, str(value)
    elif isinstance(value, str):
        yield path, value.strip()
    else:
        yield path, value

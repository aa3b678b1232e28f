"""results.json: a study's findings as text and back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from rlalign.compare.results.schema import FORMAT, Results
from rlalign.errors import UserError
from rlalign.storage.atomic import read_json, write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.typecheck import hints_of

_AGAIN = "make it again with rlalign compare"


def to_json(results: Results) -> str:
    """results.json as text."""
    return json.dumps(nullable(dataclasses.asdict(results)), ensure_ascii=False, indent=1) + "\n"


def from_json(data: Any) -> Results:
    """Results of what results.json holds. Raises UserError for another format, or what is not of this one."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"this is no results.json of format {FORMAT}: {_AGAIN}")
    try:
        found: Results = _typed(Results, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"this results.json is not as rlalign writes it ({error}): {_AGAIN}") from error
    return found


def write_results(folder: Path, results: Results) -> Path:
    """Write results.json, whole or not at all, and return its path."""
    return write_atomic(folder / "results.json", to_json(results))


def read_results(folder: str | Path) -> Results:
    """The results of a study's folder. Raises UserError when it has none, or they cannot be read."""
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise UserError(f"'{folder}' has no results.json: is it the --output of rlalign compare?")
    return from_json(read_json(path, _AGAIN))


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as what the annotation says: dataclasses, lists, tuples, dictionaries and optionals of them."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = hints_of(hint)
        return hint(**{k: _typed(hints[k], v) for k, v in value.items()})
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        return _typed(next(h for h in inner if h is not type(None)), value)
    if origin is list:
        return [_typed(inner[0], v) for v in value]
    if origin is tuple:
        return tuple(_typed(h, v) for h, v in zip(inner, value, strict=True))
    if origin is dict:
        return {k: _typed(inner[1], v) for k, v in value.items()}
    return float(value) if hint is float else value

"""Reading and writing of results.json."""

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

_FIX = "use rlalign compare to write it again"


def to_json(results: Results) -> str:
    """Return the text of results.json; NaN and infinity become null."""
    return json.dumps(nullable(dataclasses.asdict(results)), ensure_ascii=False, indent=1) + "\n"


def from_json(data: Any) -> Results:
    """Return the results that the parsed JSON `data` describes.

    Raises:
        UserError: the data have another format or do not follow the schema.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"expected a results.json of format {FORMAT}; {_FIX}")
    try:
        results: Results = _typed(Results, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"results.json does not follow the schema of format {FORMAT} ({error}); {_FIX}") from error
    return results


def write_results(folder: Path, results: Results) -> Path:
    """Write results.json atomically and return its path."""
    return write_atomic(folder / "results.json", to_json(results))


def read_results(folder: str | Path) -> Results:
    """Return the results of a study's folder.

    Args:
        folder: the output folder of a study, with its results.json.

    Raises:
        UserError: the folder has no results.json, or the file cannot be read or has another format.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise UserError(f"'{folder}' has no results.json; use the --output of rlalign compare")
    return from_json(read_json(path, _FIX))


def _typed(hint: Any, value: Any) -> Any:
    """Convert a JSON value to its annotated type: dataclasses, lists, tuples, dictionaries and optionals of them."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = hints_of(hint)
        return hint(**{key: _typed(hints[key], item) for key, item in value.items()})
    origin = typing.get_origin(hint)
    members = typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):  # X | None; None was handled above
        return _typed(next(member for member in members if member is not type(None)), value)
    if origin is list:
        return [_typed(members[0], item) for item in value]
    if origin is tuple:
        return tuple(_typed(member, item) for member, item in zip(members, value, strict=True))
    if origin is dict:
        return {key: _typed(members[1], item) for key, item in value.items()}
    return float(value) if hint is float else value  # JSON writes 1.0 as 1 in some programs

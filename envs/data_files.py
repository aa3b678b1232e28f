"""Readers of data files: records of .jsonl, .json, .csv and .parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from rlalign.errors import UserError


def read_records(path: Path) -> list[Any]:
    """Return the records of a data file.

    Raises:
        UserError: names the file, and the line if it is at fault.
    """
    if path.suffix not in READERS:
        raise UserError(f"'{path}': expected a data file that ends in {', '.join(READERS)}")
    try:
        return list(READERS[path.suffix](path))
    except (ValueError, OSError) as error:  # pyarrow raises one of these for a broken parquet file too
        raise UserError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from error


# The encoding utf-8-sig skips the byte order mark that some spreadsheets write at the start of a file.


def _read_jsonl(path: Path) -> Iterable[Any]:
    # A file is split at newlines only; str.splitlines would also split at U+2028 inside a JSON text.
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON ({error})") from error


def _read_json(path: Path) -> Iterable[Any]:
    data = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(data, list):
        raise ValueError(f"expected a list of records, got {type(data).__name__}")
    return data


def _read_csv(path: Path) -> Iterable[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(path: Path) -> Iterable[Any]:
    import pyarrow.parquet

    return cast(list[Any], pyarrow.parquet.read_table(path).to_pylist())


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}

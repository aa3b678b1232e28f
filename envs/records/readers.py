"""Readers of data files: records of .jsonl, .json, .csv, .tsv and .parquet, with their places in the file."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rlalign.envs.records.table import Table, of_columns
from rlalign.errors import UserError

_BOM = b"\xef\xbb\xbf"  # byte order mark that some spreadsheets write at the start of a file


def read_table(path: Path) -> Table:
    """Return the records of a data file.

    Raises:
        UserError: names the file, and the line if it is at fault.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"'{path}': expected a data file that ends in {', '.join(READERS)}")
    try:
        return reader(path)
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path}' cannot be read: {reason}") from error


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line. Only newlines end one: U+2028 may stand inside a JSON text."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.removeprefix(_BOM if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise ValueError(f"line {number} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from error


def _read_jsonl(path: Path) -> Table:
    rows = []
    numbers = []
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ValueError(f"line {number} is not JSON ({reason})") from error
        numbers.append(number)
    return Table(rows, path.name, "line", numbers)


def _read_json(path: Path) -> Table:
    try:
        data = json.loads("".join(line for _, line in _text_lines(path)))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(data, list):
        raise ValueError(f"expected a list of records, got {type(data).__name__}")
    return Table(data, path.name)


def _read_csv(path: Path, separator: str | None = None) -> Table:
    numbers = []
    rows = []
    for number, row in csv_records(path, separator):
        numbers.append(number)
        rows.append(row)
    return Table(rows, path.name, "line", numbers)


def csv_records(path: Path, separator: str | None = None) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield line and record of each row of a CSV file. An empty cell is a missing value; every other cell is a text.

    Rows of empty cells are skipped, as are columns without a name and without values: spreadsheets write both.

    Args:
        path: the file.
        separator: of cells; None: a semicolon if the header has one and no comma, as some spreadsheets write, else a
            comma.

    Raises:
        ValueError: names the line.
    """
    lines = (line for _, line in _text_lines(path))
    first = next(lines, "")
    if separator is None:
        separator = ";" if ";" in first and "," not in first else ","

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines

    previous = csv.field_size_limit(sys.maxsize)  # one limit for all readers: restored below
    try:
        # a blank after the separators of the header stands after all others, too
        reader = csv.reader(all_lines(), delimiter=separator, strict=True, skipinitialspace=f"{separator} " in first)
        header = [name.strip() for name in next(reader, [])]
        if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
            raise ValueError(f"expected distinct column names in line 1, got '{repeated[0]}' twice")
        nameless = [column for column, name in enumerate(header) if not name]
        start = reader.line_num + 1
        for cells in reader:
            if not any(cells):  # an empty line, too
                start = reader.line_num + 1
                continue
            if len(cells) > len(header):
                raise ValueError(
                    f"line {start}: expected {len(header)} cells, got {len(cells)}; quote a cell that has a separator"
                )
            # a line with fewer cells than the header lacks the last values
            row = {name: cell or None for name, cell in zip(header, cells, strict=False) if name}
            valued = [column for column in nameless if column < len(cells) and cells[column]]
            if valued and len(nameless) > 1:
                raise ValueError(
                    f"line {start}: expected a name in line 1 for column {valued[0] + 1}, got none; name the column"
                )
            if valued:  # the numbers of the rows, as data frames write them
                row[""] = cells[valued[0]]
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    finally:
        csv.field_size_limit(previous)


def _read_tsv(path: Path) -> Table:
    return _read_csv(path, "\t")


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    return of_columns(columns, path.name)


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
"""Suffix of a file -> its reader."""

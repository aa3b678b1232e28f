"""Rows of preference data from files, folders of `datasets` and the hub, each with its place, and files of rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.csv_cells import read_cell, write_cell
from rlalign.storage.atomic import replacing

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of files that can be read. A folder is one of `datasets`, as `save_to_disk` writes it."""
WRITABLE = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        place: such as `prefs.jsonl, line 3`.
        record: column -> value; None if the row cannot be read.
        problem: the reason why it cannot be read; empty otherwise.
        split: name of the table of a data set with several, such as train; empty otherwise.
    """

    place: str
    record: Any
    problem: str = ""
    split: str = ""


def read_rows(source: str | Path) -> Iterator[Row]:
    """Yield the rows of a file, of a folder of `datasets`, or of a data set of the hub, one by one.

    Rows of JSONL, CSV and Parquet are read while they are used. JSON is read as a whole.

    Args:
        source: a path, or the name of a data set of the hub, such as `trl-lib/ultrafeedback_binarized`.

    Raises:
        UserError: the source cannot be read. A line of JSONL that cannot be read is a row with a problem.
    """
    path = Path(source)
    if path.is_dir():
        yield from _of_datasets(_from_disk(path), path.name)
    elif path.is_file() or path.suffix.lower() in SUFFIXES:
        yield from _of_file(path)
    else:
        yield from _of_datasets(_from_hub(str(source)), str(source))


def _of_file(path: Path) -> Iterator[Row]:
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"'{path}': expected a file that ends in {', '.join(SUFFIXES)}, or a folder of datasets")
    try:
        yield from reader(path)
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path}' cannot be read: {reason}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        # only newlines end a line: U+2028 may stand inside a JSON text
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_line(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path.name, number)


def _json_line(line: bytes, name: str, number: int) -> Row:
    place = f"{name}, line {number}"
    try:
        return Row(place, json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        byte = f"0x{line[error.start]:02x} at byte {error.start + 1}"
        return Row(place, None, f"expected UTF-8, got {byte}; save the file as UTF-8")
    except RecursionError:
        return Row(place, None, "expected JSON, got one that is nested too deeply; flatten it")
    except ValueError as error:
        return Row(place, None, f"expected JSON, got a line that is none ({error}); mend the line")


def _json(path: Path) -> Iterator[Row]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _jsonl(path)  # `datasets` writes JSON lines into .json
        return
    if isinstance(content, dict):
        # an object of one table, such as {"data": [...]}, or one record of a file of JSON lines
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(content) == 1 and lists else [content]
    if not isinstance(content, list):
        raise ValueError(f"expected a list of records, got {type(content).__name__}")
    for number, record in enumerate(content, 1):
        yield Row(f"{path.name}, record {number}", record)


def _csv(path: Path) -> Iterator[Row]:
    from rlalign.envs.records.readers import csv_records

    names: dict[str, str] = {}  # a name, too, has a mark if a spreadsheet program would run it
    for number, record in csv_records(path, "\t" if path.suffix.lower() == ".tsv" else None):
        for cell in record:
            names.setdefault(cell, str(read_cell(cell, "prompt") or ""))
        values = {names[cell]: read_cell(value, names[cell]) for cell, value in record.items()}
        yield Row(f"{path.name}, line {number}", values)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    from rlalign.preferences.arrow_table import rows_of_batch

    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for record in rows_of_batch(batch):
                    number += 1
                    yield Row(f"{path.name}, row {number}", record)
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def _from_disk(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}': expected a folder that save_to_disk of datasets wrote ({error})") from error


def _from_hub(name: str) -> Any:
    import datasets

    if name.count("/") != 1:
        raise UserError(
            f"'{name}' does not exist; use a file that ends in {', '.join(SUFFIXES)}, a folder of datasets, or the "
            "name OWNER/NAME of a data set of the hub"
        )
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # of the network, of the hub, of a data set's files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{name}' is no file and cannot be loaded from the hub ({reason}); check the name") from error


def _of_datasets(data: Any, name: str) -> Iterator[Row]:
    from rlalign.preferences.arrow_table import rows_of_table

    tables = data if isinstance(data, Mapping) else {"": data}
    for split, table in tables.items():
        shown = f"{name}, {split} row" if split else f"{name}, row"
        flat = table.flatten_indices() if getattr(table, "_indices", None) is not None else table
        for number, record in enumerate(rows_of_table(flat.data.table), 1):
            yield Row(f"{shown} {number}", record, split=str(split))


def write_rows(
    rows: Iterable[Mapping[str, Any]], path: Path, *, splits: Sequence[str] = (), force: bool = False
) -> int:
    """Write rows to a file, or to a folder of `datasets` if the path has no suffix, and return their number.

    A failure leaves no file. Rows of JSONL are written while they are made; the other formats hold all of them.

    Args:
        rows: column -> value.
        path: ends in .jsonl, .csv or .parquet, or is the path of a folder.
        splits: name of the split of each row, for a folder with a table per split; empty: one table.
        force: replace a file or a folder of `datasets` that exists.

    Raises:
        UserError: the path exists, has another suffix, or a value cannot be stored.
        FaultError: the file cannot be written.
    """
    check_output(path, force=force)
    writers = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}
    with replacing(path) as temporary:
        if path.suffix:
            return writers[path.suffix.lower()](rows, temporary)
        return _write_folder(rows, temporary, splits)


def check_output(path: Path, *, force: bool = False) -> None:
    """Check that rows can be written to a path.

    Raises:
        UserError: the path exists, or has another suffix than those of `WRITABLE`.
    """
    if path.suffix and path.suffix.lower() not in WRITABLE:
        raise UserError(
            f"'{path}': expected a path that ends in {', '.join(WRITABLE)}, or a folder without a suffix; rename it"
        )
    if not path.exists():
        return
    if not force:
        raise UserError(f"'{path}' exists already; use another path, or --force to replace it")
    if path.is_dir() == bool(path.suffix):
        shown = "a file, got a folder" if path.suffix else "a folder, since the path has no suffix, got a file"
        raise UserError(f"'{path}': expected {shown}; use another path")
    if path.is_dir() and not ({entry.name for entry in path.iterdir()} & {"dataset_info.json", "dataset_dict.json"}):
        raise UserError(f"'{path}' is a folder of something else than datasets; use another path")


def _write_jsonl(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    count = 0
    with path.open("wb") as file:
        for row in rows:
            count += 1
            file.write(_json_bytes(row, count) + b"\n")
    return count


def _json_bytes(row: Mapping[str, Any], number: int) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a character, which JSON writes as an escape
        return json.dumps(row).encode()
    except (TypeError, ValueError) as error:
        name = next((name for name, value in row.items() if not _is_json(value)), "")
        raise UserError(
            f"row {number}, column '{name}': expected a JSON value, got {type(row.get(name)).__name__} ({error}); use "
            ".parquet, or leave the column out"
        ) from error


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    held = list(rows)
    columns = _columns(held)
    # \r\n as the end of a line makes the writer quote cells with either character
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow([write_cell(name, "prompt") for name in columns])
        for number, row in enumerate(held, 1):
            try:
                writer.writerow([write_cell(row.get(name), name) for name in columns])
            except (TypeError, UnicodeEncodeError) as error:
                raise UserError(
                    f"row {number}: expected texts and JSON values, got another one ({error}); use .parquet"
                ) from error
    return len(held)


def _write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    import pyarrow.parquet

    from rlalign.preferences.arrow_table import table_of_rows

    held = list(rows)
    pyarrow.parquet.write_table(table_of_rows(held, _columns(held)), path)
    return len(held)


def _write_folder(rows: Iterable[Mapping[str, Any]], path: Path, splits: Sequence[str]) -> int:
    import datasets

    from rlalign.preferences.arrow_table import as_dataset, table_of_rows

    held = list(rows)
    columns = _columns(held)
    data: Any = as_dataset(table_of_rows(held, columns))
    if splits:
        parts = {name: [i for i, split in enumerate(splits) if split == name] for name in dict.fromkeys(splits)}
        data = datasets.DatasetDict({name: data.select(indices) for name, indices in parts.items()})
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        data.save_to_disk(str(path))
    finally:
        if shown:
            datasets.enable_progress_bars()
    return len(held)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of all rows, in the order in which they first occur."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return list(names)

"""Rows of JSON values as Arrow tables, for Parquet files and folders of `datasets`, and back without a change.

Arrow gives all values of a column one type: messages of which only some have a key `name` would all get one, and 1
would become 1.0 beside 0.5. A column whose values would change is stored as Arrow's JSON type, in which `datasets`
stores mixed values, too (`datasets.Json`); it decodes them again. A list is stored as a list of JSON values, so that
TRL finds a list of messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlalign.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def table_of_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return rows as an Arrow table; a row without a column has None in it.

    Raises:
        UserError: a value that neither Arrow nor JSON holds. The message names the column.
    """
    import pyarrow as pa

    arrays = [_array([row.get(name) for row in rows], name) for name in columns]
    return pa.table(arrays, names=list(columns))


def rows_of_table(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow table as Python values; JSON is decoded, also inside lists and structures."""
    for batch in table.to_batches():
        yield from rows_of_batch(batch)


def rows_of_batch(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch of an Arrow table."""
    decoders = {field.name: field.type for field in batch.schema if _has_json(field.type)}
    for row in batch.to_pylist():
        for name, kind in decoders.items():
            row[name] = _decoded(row[name], kind)
        yield row


def as_dataset(table: pa.Table) -> Any:
    """Return an Arrow table as a `datasets.Dataset`."""
    import datasets

    if any(_has_json(field.type) for field in table.schema) and not hasattr(datasets, "Json"):
        raise UserError(
            f"expected datasets 5 or later for values of mixed types, got {datasets.__version__}; use .jsonl"
        )
    return datasets.Dataset(table)


def _array(values: list[Any], name: str) -> pa.Array:
    """Return an Arrow array from which `rows_of_table` reads equal values."""
    import pyarrow as pa

    try:
        plain = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
        plain = None
    if plain is not None and not _has_empty_structure(plain.type) and equal(plain.to_pylist(), values):
        return plain
    try:
        if all(value is None or isinstance(value, list) for value in values):
            encoded = [None if value is None else [_encoded(part) for part in value] for value in values]
            return pa.array(encoded, pa.list_(pa.string())).cast(pa.list_(pa.json_()))
        return pa.array([_encoded(value) for value in values], pa.string()).cast(pa.json_())
    except (TypeError, ValueError) as error:
        row = next((i for i, value in enumerate(values) if not _is_json(value)), 0)
        raise UserError(
            f"row {row + 1}, column '{name}': expected texts, numbers, lists and objects, got "
            f"{type(values[row]).__name__} ({error}); use .jsonl, or leave the column out"
        ) from error


def _encoded(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        return False
    return True


def equal(first: Any, second: Any) -> bool:
    """Return True for equal values of equal types: 1, 1.0 and True differ, and NaN equals itself."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(map(equal, first.values(), second.values()))
    return bool(first == second) or (first != first and second != second)


def _has_json(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return isinstance(kind, pa.JsonType) or any(_has_json(kind.field(i).type) for i in range(kind.num_fields))


def _has_empty_structure(kind: pa.DataType) -> bool:
    """Return True if a structure without fields is in a type: Parquet cannot store it."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_has_empty_structure(kind.field(i).type) for i in range(kind.num_fields))


def _decoded(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        types = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return {name: _decoded(part, types[name]) for name, part in value.items()}
    return [_decoded(part, kind.value_type) for part in value]

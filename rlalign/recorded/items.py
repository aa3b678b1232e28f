"""Rows of recorded data: read from a source, with their kind and split, and divided by prompts. Nothing is encoded."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from rlalign.config.schema import RecordedConfig
from rlalign.envs.records.splits import KNOWN, SPLITS
from rlalign.errors import RecordError, UserError
from rlalign.preferences.files import Row, read_rows
from rlalign.preferences.formats import Recognized, preferences_in, read_row, recognized
from rlalign.preferences.near_duplicates import prompt_groups, prompt_text
from rlalign.preferences.pairs import Preference
from rlalign.preferences.splits import chosen_groups
from rlalign.recorded.columns import KINDS, Kind, columns_of_rows, conversation_column, kind_of, readable_as, wrong_kind

_SAMPLE = 20  # rows whose columns decide the kind
_FEW_GROUPS = 4  # groups of prompts below which halves would be too small to measure
_ANSWERS = ("assistant", "gpt", "chatgpt", "bing")  # roles of an answer, in ShareGPT's format too


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a source before it is encoded.

    Attributes:
        place: file and row.
        split: its split in the source, such as train; empty: none.
        prompt: text by which prompts are compared.
        content: the row, or a preference; an error if it is neither.
    """

    place: str
    split: str
    prompt: str
    content: Mapping[str, Any] | Preference | RecordError


Items = tuple[Item, ...]


def check_kind(source: str, wanted: Kind, algorithm: str, settings: RecordedConfig) -> Kind:
    """Return the kind as which a source is read, before any row is encoded.

    Raises:
        UserError: the source cannot be read, or holds data of another kind.
    """
    columns = columns_of(source)
    kind = kind_of(columns)
    if settings.kind != "auto":
        if settings.kind not in KINDS or settings.kind != wanted:
            raise UserError(
                f"--as {settings.kind}: expected {wanted}, which {algorithm} learns from; use another --algorithm, or "
                f"--as {wanted}"
            )
        return wanted
    if not readable_as(kind, wanted):
        raise wrong_kind(source, kind, columns, algorithm, wanted)
    return wanted


def columns_of(source: str) -> list[str]:
    """Return the columns of a source, from its first rows. Raises UserError if it cannot be read or has no row."""
    rows = list(islice(read_rows(_path(source)), _SAMPLE))
    if not rows:
        raise UserError(f"'{source}': expected rows of recorded data, got none; add some")
    return columns_of_rows([row.record for row in rows])


def read_items(source: str, kind: Kind) -> tuple[tuple[Item, ...], dict[str, int]]:
    """Return the rows of a source, and the number of votes and rows that give none, by reason.

    A file or folder is read once per state of it: the cells of a study name the same data.

    Raises:
        UserError: it cannot be read, or has no row of the kind.
    """
    return _read_items(_path(source), kind, _state(source))


@dataclass(frozen=True, slots=True)
class Division:
    """Rows of a source, divided by prompts.

    Attributes:
        train: to train on.
        validation, test: held out (see `halves`); the same object if there are few.
        left_out: numbers of `read_items`.
    """

    train: Items
    validation: Items
    test: Items
    left_out: dict[str, int]


def read_divided(source: str, kind: Kind, share: float, seed: int = 0) -> Division:
    """Return the rows of a source to train on and those that are held out.

    The rows are divided once per state of the source: the environment of the data reads them before the run does.

    Args:
        source: file, folder of datasets, or data set of the hub.
        kind: as which it is read.
        share: of the rows that are held out, see `divide`.
        seed: of the division.

    Raises:
        UserError: it cannot be read, has no row of the kind, or not all rows have a split.
    """
    return _divided(_path(source), kind, _state(source), share, seed)


@lru_cache(maxsize=4)
def _divided(source: str, kind: Kind, state: tuple[Any, ...], share: float, seed: int) -> Division:
    items, left_out = _read_items(source, kind, state)
    train, held_out = divide(items, share, seed)
    return Division(tuple(train), *halves(held_out), left_out)


def _state(source: str) -> tuple[Any, ...]:
    """Return names, sizes and times of the files of a source, which differ if it has changed; empty for the hub."""
    path = Path(source).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=4)
def _read_items(source: str, kind: Kind, state: tuple[Any, ...]) -> tuple[tuple[Item, ...], dict[str, int]]:
    left_out: Counter[str] = Counter()
    columns = columns_of(source)
    if kind == "pairs" or kind_of(columns) in ("pairs", None):
        items = tuple(_of_preferences(source, kind, left_out))
    else:
        items = tuple(_of_row(row) for row in read_rows(source))
    if not items:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"'{source}': expected {kind}, got none ({reasons or 'no row'}); add some")
    return items, dict(left_out)


def _of_row(row: Row) -> Item:
    if row.problem or not isinstance(row.record, Mapping):
        return _unusable(row, row.problem or "expected an object with columns; leave the row out")
    record = row.record
    prompt = record.get("prompt")
    if prompt is None:
        messages = record.get(conversation_column(record))
        prompt = list(takewhile(_before_answer, messages)) if isinstance(messages, list) else ""
    return Item(row.place, _split(row.split or record.get("split")), prompt_text(prompt), record)


def _unusable(row: Row, reason: str) -> Item:
    return Item(row.place, row.split, "", RecordError(row.place, reason))


def _before_answer(message: Any) -> bool:
    return isinstance(message, Mapping) and (message.get("role") or message.get("from")) not in _ANSWERS


def _split(name: Any) -> str:
    """Return train, validation or test for one of their usual names, else the name itself."""
    folded = str(name or "").strip().casefold()
    return KNOWN.get(folded, folded)


def _of_preferences(source: str, kind: Kind, left_out: Counter[str]) -> Iterator[Item]:
    """Yield preferences; each chosen side alone for demonstrations, each side with its label for labels."""
    found, rows = recognized(read_rows(source), "auto", source)
    for preference in _preferences(found, rows, left_out):
        if isinstance(preference, Item):
            yield preference
            continue
        explicit = preference.explicit()
        split = _split(preference.split)
        prompt = prompt_text(explicit.prompt)
        if kind == "pairs":
            yield Item(preference.place, split, prompt, preference)
            continue
        sides = ("chosen",) if kind == "demonstrations" else ("chosen", "rejected")
        for side in sides:
            record = {
                "prompt": explicit.prompt,
                "completion": getattr(explicit, side),
                "completion_cut": preference.extra.get(f"{side}_cut"),
                "label": side == "chosen",
                "tools": preference.extra.get("tools"),
            }
            yield Item(preference.place, split, prompt, record)


def _preferences(found: Recognized, rows: Iterable[Row], left_out: Counter[str]) -> Iterator[Preference | Item]:
    """Yield the preferences of rows, and an item with the error for each row that gives none."""
    if found.format.whole:  # votes: a preference has many rows
        yield from preferences_in(found.format, rows, left_out)
        return
    for row in rows:
        if row.problem:
            yield _unusable(row, row.problem)
            continue
        try:
            yield from list(read_row(found.format, row, left_out))
        except UserError as error:
            yield _unusable(row, str(error).removeprefix(f"{row.place}: "))


def divide(items: Sequence[Item], share: float, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Return the rows to train on and those that are held out (see `rlalign.recorded.read.read_recorded`)."""
    parts: tuple[list[Item], list[Item]] = ([], [])
    names = Counter(item.split for item in items if not isinstance(item.content, RecordError))
    if len(names) > 1:
        if "train" not in names or not set(names) <= set(SPLITS):
            shown = ", ".join(f"{name or 'none'} ({count} rows)" for name, count in names.most_common(8))
            raise UserError(
                f"recorded data: expected the split of each row, train, validation or test, with rows of train, got "
                f"{shown}; rename the splits, or use a file with the rows of one of them"
            )
        # rows that cannot be used have no split: they are reported with the training data
        for item in items:
            parts[item.split != "train" and not isinstance(item.content, RecordError)].append(item)
        return parts
    groups = prompt_groups([item.prompt for item in items])
    if share == 0 or len(set(groups)) < 2:
        return list(items), []
    chosen = chosen_groups(groups, share, seed)
    for item, group in zip(items, groups, strict=True):
        parts[group in chosen].append(item)
    return parts


def halves(items: Sequence[Item]) -> tuple[Items, Items]:
    """Return held-out rows as validation, which may select weights, and test, which is reported.

    The source's own splits divide them if it names both, else every other group of nearly equal prompts. Fewer than
    four groups serve as both, as the same object.
    """
    if {"validation", "test"} <= {item.split for item in items}:
        of_test = [item.split != "validation" for item in items]
    else:
        groups = prompt_groups([item.prompt for item in items])
        number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        if len(number) < _FEW_GROUPS:
            both = tuple(items)
            return both, both
        of_test = [number[group] % 2 == 1 for group in groups]
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item, belongs in zip(items, of_test, strict=True):
        parts[belongs].append(item)
    return tuple(parts[0]), tuple(parts[1])


def hub_identity(data: str | None) -> dict[str, dict[str, str]]:
    """Return the digest of data of the hub, in the form of `rlalign.storage.identity`; {} for files."""
    if data is None or Path(data).expanduser().exists():
        return {}
    rows = (json.dumps(row.record, sort_keys=True, default=str) for row in read_rows(data))
    digest = hashlib.sha256("\n".join(rows).encode(errors="surrogatepass")).hexdigest()
    return {f"hub data {data}": {"sha256": digest, "path": data}}


def _path(source: str) -> str:
    path = Path(source).expanduser()
    return str(path) if path.exists() else source

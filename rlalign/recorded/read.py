"""Recorded data of a run: a source as groups of trajectories, divided into training and held-out data by prompts."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from rlalign.config.schema import RecordedConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.records.splits import KNOWN, SPLITS
from rlalign.errors import RecordError, UserError
from rlalign.preferences.files import Row, read_rows
from rlalign.preferences.formats import Recognized, preferences_in, read_row, recognized
from rlalign.preferences.near_duplicates import prompt_groups
from rlalign.preferences.pairs import Preference, text_of
from rlalign.recorded.columns import KINDS, Kind, columns_of_rows, conversation_column, kind_of, readable_as, wrong_kind
from rlalign.recorded.encode import Encoder
from rlalign.recorded.rows import completion_of, demonstration, is_cut, labelled, prompt_of, refuse_tools, rewarded
from rlalign.rollout.recorded import Group, Trajectory

_SAMPLE = 20  # rows whose columns decide the kind
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


@dataclass(frozen=True, slots=True)
class RecordedData:
    """Recorded data of a run.

    Attributes:
        kind: demonstrations, rewards, labels or pairs.
        train: groups to train on.
        held_out: groups of other prompts; empty if the data has one group of prompts only.
        notes: sentences for the user: sizes, and what was left out.
    """

    kind: Kind
    train: list[Group]
    held_out: list[Group]
    notes: list[str] = field(default_factory=list)

    @property
    def has_logprobs(self) -> bool:
        """Whether the log-probs of all actions of the training data were recorded."""
        return all(row.logprobs is not None for group in self.train for row in group)

    @property
    def longest(self) -> int:
        """Largest number of actions of a trajectory."""
        return max(row.num_actions for group in (*self.train, *self.held_out) for row in group)


def read_recorded(
    source: str,
    wanted: Kind,
    mdp: TextMDP,
    *,
    algorithm: str,
    settings: RecordedConfig,
    positions: int | None = None,
    drop: bool = False,
    seed: int = 0,
) -> RecordedData:
    """Return the data of a source as token ids.

    The source's own splits divide it if it names both training and other rows. Else a share of the rows is held out by
    groups of equal and nearly equal prompts. Pairs whose completions have equal ids have no gradient and are left out.

    Args:
        source: file, folder of datasets, or data set of the hub.
        wanted: what the algorithm learns from; `settings.kind` reads other data as this kind.
        mdp: bound to the policy's tokenizer.
        algorithm: for messages.
        settings: kind, turns, largest length, and share of held-out data.
        positions: most token ids that the model reads; None: no limit.
        drop: leave out rows that cannot be used, instead of raising an error.
        seed: of the division.

    Raises:
        RecordError: a row cannot be used.
        UserError: the source cannot be read, holds data of another kind, or nothing is left to train on.
    """
    kind = check_kind(source, wanted, algorithm, settings)
    items, left_out = read_items(source, kind)
    encoder = Encoder.of(mdp, positions)
    counts = Counter(left_out)
    parts: list[list[Group]] = []
    for part in divide(items, settings.held_out, seed):
        groups: list[Group] = []
        for item in part:
            try:
                encoded = _encoded(encoder, item, kind, settings.turns)
                groups += [[row.compact() for row in group] for group in encoded]
            except RecordError:
                if not drop:
                    raise
                counts["that cannot be used"] += 1
        parts.append(_usable(groups, kind, settings.max_length, counts))
    train, held_out = parts
    if not train:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise UserError(
            f"'{source}': expected {kind} to train on, got none that can be used ({reasons or 'no row'}); correct the "
            "data"
        )
    if kind == "rewards":
        train, held_out = _by_prompt(train), _by_prompt(held_out)
    return RecordedData(kind, train, held_out, _notes(kind, train, held_out, counts, mdp))


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
    path = Path(source).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    state = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _read_items(_path(source), kind, state)


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
    return Item(row.place, _split(row.split or record.get("split")), _comparable(prompt), record)


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
        prompt = _comparable(explicit.prompt)
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


def _comparable(prompt: Any) -> str:
    """Return the text by which prompts are compared: without the system's messages, which prompts share."""
    if isinstance(prompt, list):
        users = [m for m in prompt if isinstance(m, Mapping) and (m.get("role") or m.get("from")) != "system"]
        return "\n".join(str(m.get("content", m.get("value", ""))) for m in users)
    return text_of(prompt) if isinstance(prompt, str) else str(prompt)


def divide(items: Sequence[Item], share: float, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Return the rows to train on and those that are held out (see `read_recorded`)."""
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
    sizes = Counter(groups)
    if share == 0 or len(sizes) < 2:
        return list(items), []
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    count = 0
    for group in order:
        if count + sizes[group] <= share * len(items):
            chosen.add(group)
            count += sizes[group]
    if not chosen:  # each group is larger than the share
        chosen = {min(order, key=lambda group: sizes[group])}
    for item, group in zip(items, groups, strict=True):
        parts[group in chosen].append(item)
    return parts


def _encoded(encoder: Encoder, item: Item, kind: Kind, turns: str) -> list[Group]:
    """Return the groups of a row. Raises RecordError if it cannot be used."""
    if isinstance(item.content, RecordError):
        raise item.content
    if isinstance(item.content, Preference):
        return [_pair(encoder, item.content)]
    if kind == "demonstrations":
        rows = demonstration(encoder, item.content, item.place, turns)
    elif kind == "rewards":
        rows = rewarded(encoder, item.content, item.place)
    else:
        rows = labelled(encoder, item.content, item.place)
    return [[row] for row in rows]


def _pair(encoder: Encoder, preference: Preference) -> Group:
    refuse_tools(preference.extra, preference.place)
    explicit = preference.explicit()
    prompt = prompt_of({"prompt": explicit.prompt}, preference.place)
    sides = {"chosen": explicit.chosen, "rejected": explicit.rejected}
    return [
        encoder.completion(
            prompt,
            completion_of(sides, name, preference.place),
            place=preference.place,
            cut=is_cut(preference.extra, name),
            name=name,
            reward=float(name == "chosen"),
        )
        for name in sides
    ]


def _usable(groups: Sequence[Group], kind: Kind, max_length: int | None, counts: Counter[str]) -> list[Group]:
    """Return the groups that are short enough and have a gradient; the others are counted."""
    usable = []
    for group in groups:
        if max_length is not None and any(len(row.ids) > max_length for row in group):
            counts[f"longer than {max_length} tokens"] += 1
        elif kind == "pairs" and list(group[0].ids) == list(group[1].ids):
            counts["equal completions"] += 1
        else:
            usable.append(group)
    return usable


def _by_prompt(groups: Sequence[Group]) -> list[Group]:
    """Return the trajectories of logged rewards with one group per prompt, in the order of the data."""
    together: dict[tuple[int, ...], list[Trajectory]] = {}
    for group in groups:
        for row in group:
            together.setdefault(tuple(row.ids[: row.prompt_length]), []).append(row)
    return list(together.values())


_UNITS = {"demonstrations": "rows", "rewards": "prompts", "labels": "rows", "pairs": "pairs"}


def _notes(
    kind: Kind, train: Sequence[Group], held_out: Sequence[Group], counts: Counter[str], mdp: TextMDP
) -> list[str]:
    unit = _UNITS[kind]
    notes = [f"{kind}: {len(train)} {unit} to train on, {len(held_out)} held out"]
    reasons = [f"{count} {reason}" for reason, count in counts.items() if count]
    if reasons:
        notes.append(f"left out of the data: {', '.join(reasons)}")
    longer = sum(any(row.num_actions > mdp.max_new for row in group) for group in (*train, *held_out))
    if longer:
        notes.append(
            f"{longer} {unit} have a completion of more than {mdp.max_new} tokens, the limit of the policy's own; "
            "--rollout.max-new raises it"
        )
    return notes


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

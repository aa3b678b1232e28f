"""Pairs and ratings for reward models: from the store of a study, or from files of preference data."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlalign.errors import UserError
from rlalign.preferences.pairs import Preference, is_set, is_side, text_of
from rlalign.rewards.reward_model.rendering import Sample

SQLITE = (".db", ".sqlite", ".sqlite3")
_RATINGS = ("rating", "score", "label")


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference between two completions of a prompt.

    Attributes:
        chosen: the preferred completion with its prompt.
        rejected: the other one.
        margin: strength of the preference; None: unknown.
        group: of equal or nearly equal prompts.
        split: train or test; empty: undecided.
        annotator: pseudonym; empty: unknown.
        chosen_first: the preferred completion was the first on the screen; None: unknown.
        columns: further columns, by which accuracy is reported.
        place: file and row, for messages.
    """

    chosen: Sample
    rejected: Sample
    margin: float | None = None
    group: int = 0
    split: str = ""
    annotator: str = ""
    chosen_first: bool | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Rating:
    """Points of a completion.

    Attributes:
        sample: the completion with its prompt.
        points: the rating.
        group: of equal or nearly equal prompts.
        split: train or test; empty: undecided.
        annotator: pseudonym; empty: unknown.
        place: file and row, for messages.
    """

    sample: Sample
    points: float
    group: int = 0
    split: str = ""
    annotator: str = ""
    place: str = ""


R = TypeVar("R", Pair, Rating)


@dataclass(frozen=True)
class Rows(Generic[R]):
    """Rows of data, and what gave none.

    Attributes:
        rows: pairs or ratings.
        left_out: reason -> number.
    """

    rows: Sequence[R]
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_pairs(source: str | Path, *, majority: bool = False, format: str = "auto") -> Rows[Pair]:
    """Return the pairs of a store, or of a file of preference data.

    A vote of a store is a pair, so that three votes count three times. Ties and skips give none.

    Args:
        source: a store (SQLite or a PostgreSQL URL), a file, a folder of `datasets`, or a data set of the hub.
        majority: of a store, one pair per item by majority, whose margin is the difference of the shares.
        format: of a file; "auto": recognized.

    Raises:
        UserError: the source cannot be read or gives no pair.
    """
    left_out: Counter[str] = Counter()
    if is_store(source):
        pairs = list(_pairs_of_votes(_votes(source), left_out, majority=majority))
    else:
        from rlalign.preferences import read_preferences

        pairs = pairs_of(read_preferences(source, format=format, left_out=left_out))
    if not pairs:
        listed = ", ".join(f"{count} x {reason}" for reason, count in left_out.items()) or "no rows"
        raise UserError(
            f"'{source}': expected preferences between two completions, got none ({listed}); use other data"
        )
    return Rows(pairs, left_out)


def pairs_of(preferences: Iterable[Preference]) -> list[Pair]:
    """Return preferences as pairs, with groups of equal and nearly equal prompts."""
    return _with_groups(_pair(preference) for preference in preferences)


def is_store(source: str | Path) -> bool:
    """Return whether a source is the store of a study: a PostgreSQL URL, or a file with the suffix of SQLite."""
    return str(source).startswith(("postgresql://", "postgresql+", "postgres://")) or Path(source).suffix in SQLITE


def _votes(source: str | Path) -> list[dict[str, Any]]:
    from rlalign.feedback.progress import votes
    from rlalign.feedback.store import Store

    with Store(source) as store, store.snapshot() as connection:
        return list(votes(connection, comments=False))


def _pairs_of_votes(votes: Sequence[Mapping[str, Any]], left_out: Counter[str], *, majority: bool) -> Iterator[Pair]:
    from rlalign.preferences.from_votes import preferences_of_votes

    if majority or any(vote["kind"] == "rating" for vote in votes):  # ratings make pairs of several votes
        for preference in preferences_of_votes(votes, left_out, each_answer=not majority):
            yield replace(_pair(preference), group=int(preference.group or 0))
        return
    for vote in votes:
        for preference in preferences_of_votes([vote], left_out, each_answer=True):
            # a vote's choice is a side of the screen
            first = vote["choice"] == "a" if vote["kind"] == "pair" else None
            yield replace(_pair(preference), chosen_first=first, group=int(preference.group or 0))


def _pair(preference: Preference) -> Pair:
    explicit = preference.explicit()
    extra = preference.extra
    if explicit.form == "mixed":
        raise UserError(f"{preference.place}: expected texts or messages, got both; use one of them")
    prompt = explicit.prompt or ""
    first = extra.get("chosen_first")
    return Pair(
        Sample(prompt, explicit.chosen, is_set(extra.get("chosen_cut"))),
        Sample(prompt, explicit.rejected, is_set(extra.get("rejected_cut"))),
        margin=None if preference.margin is None else float(preference.margin),
        split=preference.split or "",
        annotator=preference.annotator or "",
        chosen_first=first if isinstance(first, bool) else None,
        columns={name: value for name, value in extra.items() if isinstance(value, str | bool | int)},
        place=preference.place,
    )


def _with_groups(pairs: Iterable[Pair]) -> list[Pair]:
    held = list(pairs)
    return [replace(p, group=group) for p, group in zip(held, _groups([p.chosen for p in held]), strict=True)]


def _groups(samples: Sequence[Sample]) -> list[int]:
    """Return the group of the prompt of each sample: equal and nearly equal prompts have one."""
    from rlalign.preferences.near_duplicates import prompt_groups

    texts = []
    for sample in samples:
        prompt = sample.prompt
        if not isinstance(prompt, str):  # a shared message of the system makes no prompts equal
            prompt = text_of([dict(m) for m in prompt if m["role"] != "system"] or [dict(m) for m in prompt])
        texts.append(prompt)
    return list(prompt_groups(texts)) if texts else []


def read_ratings(source: str | Path, *, scale: str = "") -> Rows[Rating]:
    """Return the ratings of a store, or of a .jsonl file with the columns prompt, completion and rating.

    Args:
        source: the store or the file.
        scale: of the ratings of a store; empty: the first one.

    Raises:
        UserError: the source cannot be read, or a row is no rating.
    """
    if is_store(source):
        rows = list(_ratings_of_votes(_votes(source), scale))  # the store knows the groups
    else:
        rows = [_rating(record, place) for record, place in _records(Path(source))]
        groups = _groups([row.sample for row in rows])
        rows = [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]
    if not rows:
        raise UserError(f"'{source}': expected ratings of completions, got none; use a study of ratings")
    return Rows(rows)


def _ratings_of_votes(votes: Iterable[Mapping[str, Any]], scale: str) -> Iterator[Rating]:
    for vote in votes:
        if vote["kind"] != "rating" or vote["gold"] or vote["repeat_of"] is not None or vote["choice"] == "skip":
            continue
        ratings = vote["ratings"] or {}
        name = scale or next(iter(ratings), "")
        if name not in ratings:
            known = ", ".join(ratings) or "none"
            place = f"vote {vote['vote']}"
            raise UserError(f"{place}: expected a rating on the scale '{name}', got {known}; use one of these")
        prompt = vote["prompt"]
        if len(prompt) == 1 and prompt[0]["role"] == "text":  # the store holds a plain prompt as one such message
            prompt = prompt[0]["content"]
        sample = Sample(prompt, vote["completions"][0], vote["cut"][0])
        yield Rating(
            sample,
            float(ratings[name]),
            int(vote["group"]),
            vote["split"] or "",
            vote["annotator"],
            f"vote {vote['vote']}",
        )


def _records(path: Path) -> Iterator[tuple[Any, str]]:
    from rlalign.preferences.files import read_rows

    for row in read_rows(path):
        if row.problem:
            raise UserError(f"{row.place}: {row.problem}")
        yield row.record, row.place


def _rating(record: Any, place: str) -> Rating:
    points = next((record[name] for name in _RATINGS if isinstance(record, Mapping) and name in record), None)
    if isinstance(points, bool) or not isinstance(points, int | float) or not math.isfinite(points):
        raise UserError(f"{place}: expected a number in the column rating, got {points!r:.40}; add it")
    completion = record.get("completion")
    prompt = record.get("prompt") or ""
    if not is_side(completion) or not is_side(prompt):
        shown = json.dumps(record)[:60]
        raise UserError(f"{place}: expected texts or messages as prompt and completion, got {shown}; use both columns")
    sample = Sample(prompt, completion, is_set(record.get("cut")))
    return Rating(sample, float(points), 0, str(record.get("split") or ""), str(record.get("annotator") or ""), place)


def divide(rows: Sequence[R], *, test: float, seed: int = 0) -> tuple[list[R], list[R]]:
    """Return train and test rows that share no group of prompts.

    The splits of the data are used if it has both; a row of another split is in neither. Otherwise groups are drawn.

    Args:
        rows: pairs or ratings.
        test: share of the rows in test.
        seed: of the order of the groups.

    Raises:
        UserError: all prompts form one group, or a group is in both splits of the data.
    """
    import random

    if {"train", "test"} <= {row.split for row in rows}:
        train = [row for row in rows if row.split == "train"]
        held_out = [row for row in rows if row.split == "test"]
        if shared := {row.group for row in train} & {row.group for row in held_out}:
            place = next(row.place for row in held_out if row.group in shared)
            raise UserError(
                f"expected splits without common prompts, got {len(shared)} groups of (nearly) equal prompts in both, "
                f"such as {place or 'a row of test'}; leave the column split out, and groups are drawn"
            )
        return train, held_out
    sizes = Counter(row.group for row in rows)
    if len(sizes) < 2:
        raise UserError(
            f"expected two or more groups of prompts, got {len(sizes)} in {len(rows)} rows; add other prompts, since "
            "accuracy on the prompts of the training is no held-out accuracy"
        )
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    count = 0
    for group in order:
        if count + sizes[group] <= max(test * len(rows), min(sizes.values())):
            chosen.add(group)
            count += sizes[group]
    return [r for r in rows if r.group not in chosen], [r for r in rows if r.group in chosen]

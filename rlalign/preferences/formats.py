"""The formats of preference data: their names, how they are recognized, and how they are read and written."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlalign.errors import UnknownNameError, UserError
from rlalign.preferences import argilla, from_votes, hh_rlhf, label_studio, trl_format, ultrafeedback
from rlalign.preferences.files import Row, check_output, read_rows, write_rows
from rlalign.preferences.judged import PAIRINGS, Pairing
from rlalign.preferences.pairs import Preference

_SAMPLE = 20
"""Rows from which a format is recognized."""
RowReader = Callable[..., Iterator[Preference]]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of preference data.

    Attributes:
        name: for `--format`.
        description: what its rows hold.
        detect: returns why rows have the format, or an empty text.
        read: yields the preferences of one row, or of all rows if `whole`.
        whole: the reader needs all rows at once.
    """

    name: str
    description: str
    detect: Callable[[Sequence[Any]], str]
    read: RowReader
    whole: bool = False


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        # in the order in which they are tried: transcripts have TRL's columns, too
        Format("label-studio", "tasks with data and annotations", label_studio.detect, label_studio.read),
        Format("argilla", "records with fields and responses", argilla.detect, argilla.read),
        Format("votes", "votes of a study, one per row", from_votes.detect, from_votes.read, whole=True),
        Format("hh-rlhf", "transcripts of Human and Assistant", hh_rlhf.detect, hh_rlhf.read),
        Format("trl", "chosen and rejected, with or without prompt", trl_format.detect, trl_format.read),
        Format("ultrafeedback", "completions with scores", ultrafeedback.detect, ultrafeedback.read),
    )
}
"""Name -> format."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """The format of rows, and why.

    Attributes:
        format: the format.
        reason: what was recognized; "it was given" if the user named it.
    """

    format: Format
    reason: str


def recognized(rows: Iterable[Row], format: str, source: str | Path) -> tuple[Recognized, Iterator[Row]]:
    """Return the format of rows, and all rows.

    Args:
        rows: the rows, of which the first ones are read.
        format: name of a format, or "auto".
        source: name of the rows, for the message.

    Raises:
        UserError: no format fits, or there are no rows.
        UnknownNameError: the name is unknown.
    """
    if format != "auto":
        if format not in FORMATS:
            raise UnknownNameError("format of preference data", format, ["auto", *FORMATS])
        return Recognized(FORMATS[format], "it was given"), iter(rows)
    remaining = iter(rows)
    sample = list(itertools.islice(remaining, _SAMPLE))
    records = [row.record for row in sample if not row.problem]
    if not sample:
        raise UserError(f"'{source}': expected rows of preference data, got none; add some")
    if not records:
        raise UserError(f"{sample[0].place}: {sample[0].problem}")
    for candidate in FORMATS.values():
        if reason := candidate.detect(records):
            return Recognized(candidate, reason), itertools.chain(sample, remaining)
    columns = ", ".join(map(str, records[0])) if isinstance(records[0], Mapping) else type(records[0]).__name__
    listed = "; ".join(f"{f.name}: {f.description}" for f in FORMATS.values())
    raise UserError(f"'{source}': expected one of the formats of preference data, got {columns}; use {listed}")


def read_preferences(
    source: str | Path,
    *,
    format: str = "auto",
    pairing: Pairing | None = None,
    each_answer: bool = False,
    score: str = "",
    scale: str = "",
    seed: int = 0,
    left_out: Counter[str] | None = None,
) -> Iterator[Preference]:
    """Yield the preferences of a file, of a folder of `datasets`, or of a data set of the hub.

    Args:
        source: a path, or the name of a data set of the hub.
        format: name of a format (`FORMATS`), or "auto".
        pairing: pairs of several completions with scores, one of `judged.PAIRINGS`; None: "best-random" for
            UltraFeedback, "all" for ratings of people.
        each_answer: one preference per answer of a person, in place of one per pair of completions.
        score: key of the score in a completion of UltraFeedback; empty: the first known one.
        scale: scale of rated votes; empty: the first one.
        seed: of the random choices of `pairing`.
        left_out: counts what gives no preference, by reason; it is changed.

    Raises:
        UserError: the source cannot be read, no format fits, or a row is no preference. It names the file and the row.
    """
    if pairing is not None and pairing not in PAIRINGS:
        raise UnknownNameError("pairing", pairing, PAIRINGS)
    counts = Counter[str]() if left_out is None else left_out
    found, rows = recognized(read_rows(source), format, source)
    options: dict[str, Any] = {"each_answer": each_answer, "score": score, "scale": scale, "seed": seed}
    if pairing is not None:
        options["pairing"] = pairing
    yield from preferences_in(found.format, rows, counts, **options)


def preferences_in(format: Format, rows: Iterable[Row], left_out: Counter[str], **options: Any) -> Iterator[Preference]:
    """Yield the preferences of rows of a format.

    Raises:
        UserError: names the file and the row at fault.
    """

    def readable() -> Iterator[Row]:
        for row in rows:
            if row.problem:
                raise UserError(f"{row.place}: {row.problem}")
            yield row

    if format.whole:
        yield from format.read(readable(), left_out, **options)
        return
    for row in readable():
        yield from read_row(format, row, left_out, **options)


def read_row(format: Format, row: Row, left_out: Counter[str], **options: Any) -> Iterator[Preference]:
    """Yield the preferences of one row of a format.

    Raises:
        UserError: names the file and the row.
    """
    try:
        yield from format.read(row, left_out, **options)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # a row of another shape than that of the format: the readers look up what the format has
        raise UserError(
            f"{row.place}: expected {format.description} in the format {format.name}, got another row "
            f"({type(error).__name__}: {error}); leave it out, or name another format"
        ) from error


def write_preferences(
    preferences: Iterable[Preference], path: str | Path, *, format: str = "trl", force: bool = False
) -> int:
    """Write preferences to a file, or to a folder of `datasets` if the path has no suffix; return their number.

    A folder gets a table per split if the splits come from such a folder or from a study, that is, from no column.

    Args:
        preferences: the preferences.
        path: ends in .jsonl, .csv or .parquet, or is the path of a folder.
        format: "trl", or "hh-rlhf" for transcripts.
        force: replace a file or a folder of `datasets` that exists.

    Raises:
        UserError: the path exists or has another suffix, or a preference does not fit the format.
        FaultError: the file cannot be written.
    """
    path = Path(path)
    check_output(path, force=force)
    if format not in ("trl", "hh-rlhf"):
        raise UnknownNameError("format to write", format, ("trl", "hh-rlhf"))
    rows = (_transcripts(p) if format == "hh-rlhf" else p for p in preferences)
    if path.suffix:
        return write_rows((p.row() for p in rows), path, force=force)
    held = list(rows)
    if held and all(p.split and "split" not in p.columns for p in held):
        splits = [str(p.split) for p in held]
        return write_rows((replace(p, split=None).row() for p in held), path, splits=splits, force=force)
    return write_rows((p.row() for p in held), path, force=force)


def _transcripts(preference: Preference) -> Preference:
    """Return a conversational preference with transcripts of HH-RLHF as its sides."""
    explicit = preference.explicit()
    prompt, chosen, rejected = explicit.prompt, explicit.chosen, explicit.rejected
    if not isinstance(prompt, list) or not isinstance(chosen, list) or not isinstance(rejected, list):
        raise UserError(f"{preference.place}: expected messages for transcripts, got a text; use the format trl")
    sides = [hh_rlhf.transcript_of([*prompt, *side]) for side in (chosen, rejected)]
    columns = tuple(name for name in preference.columns if name != "prompt")
    return replace(preference, prompt=None, chosen=sides[0], rejected=sides[1], columns=columns)

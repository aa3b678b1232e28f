"""`rlalign feedback export`: the votes of a study, or the preferences that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from rlalign.cli.feedback_output import refuse_loss
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text

if TYPE_CHECKING:
    from collections import Counter

    from rlalign.preferences.pairs import Preference

_SUFFIXES = {"trl": ".trl.jsonl", "jsonl": ".votes.jsonl", "parquet": ".votes.parquet", "csv": ".votes.csv"}


@dataclass(frozen=True)
class Export:
    """Write preferences (trl) or every counted vote with its time (jsonl, parquet, csv). An export counts as a look."""

    store: tyro.conf.Positional[str]
    """The store of the study, or its PostgreSQL URL."""
    format: Literal["trl", "jsonl", "parquet", "csv"] = "trl"
    """trl: prompt, chosen and rejected; jsonl, parquet, csv: one row per counted vote."""
    output: Path | None = None
    """File to write; for trl it ends in .jsonl, .csv or .parquet, or is a folder of `datasets` with a table per split;
    None: beside the store."""
    split: Literal["all", "train", "test"] = "all"
    """Split of the prompts whose preferences are written: all, train or test."""
    each_vote: bool = False
    """Write a preference per vote, with its annotator, in place of one per item by majority."""
    margin: bool = False
    """Name the strength of a preference `margin`, which RewardTrainer subtracts in its loss, in place of `strength`."""
    scale: str = ""
    """Scale of ratings that makes preferences; empty: the first one."""
    pairing: Literal["best-random", "best-each", "all"] = "all"
    """Pairs of rated completions: best-random, the best with a random worse one; best-each, the best with each worse
    one; or all."""
    comments: bool = True
    """Include the comments in votes; `--no-comments` leaves them out."""
    force: bool = False
    """Replace an output that exists."""


def run_export(arguments: Export) -> int:
    """Write the export and print what is in it; return 0.

    Raises:
        UserError: the store or the output cannot be used, or nothing would be written.
        FaultError: the output cannot be written.
    """
    from rlalign.feedback.store import Store, is_postgres
    from rlalign.preferences.files import check_output

    output = _output(arguments)
    refuse_loss("--output", output, [] if is_postgres(arguments.store) else [arguments.store])
    check_output(output, force=arguments.force)
    with Store(arguments.store) as store:
        if arguments.format == "trl":
            _write_preferences(store, arguments, output)
        else:
            _write_votes(store, arguments, output)
    return 0


def _log(store: Any) -> None:
    """Count the look before the file is written: a file without an entry would be a look that nobody counts."""
    from rlalign.feedback.exports import log_look

    store.write(lambda connection: log_look(connection, "command line", "export")).result()


def _output(arguments: Export) -> Path:
    from rlalign.feedback.store import is_postgres

    if arguments.output is None:
        if is_postgres(arguments.store):
            raise UserError("--output: expected a file for an export from PostgreSQL, got none; use --output FILE")
        return Path(arguments.store).with_suffix(_SUFFIXES[arguments.format])
    if arguments.format != "trl" and arguments.output.suffix.lower() != f".{arguments.format}":
        raise UserError(
            f"--output '{arguments.output}': expected a path that ends in .{arguments.format}, the format; rename it"
        )
    return arguments.output


def _write_votes(store: Any, arguments: Export, output: Path) -> None:
    from rlalign.feedback.exports import csv_lines, json_lines
    from rlalign.feedback.progress import votes
    from rlalign.preferences.files import write_rows

    _log(store)
    with store.snapshot() as connection:
        rows = votes(connection, comments=arguments.comments)
        if arguments.format == "parquet":
            count = write_rows(rows, output, force=arguments.force)
        else:
            lines = json_lines(rows) if arguments.format == "jsonl" else csv_lines(rows)
            count = _write_lines(lines, output)  # the header of CSV comes with the first row
    print_text(f"{output}: {count} votes")


def _write_preferences(store: Any, arguments: Export, output: Path) -> None:
    from collections import Counter

    from rlalign.feedback.progress import votes
    from rlalign.preferences.formats import write_preferences
    from rlalign.preferences.from_votes import preferences_of_votes

    left_out: Counter[str] = Counter()
    with store.snapshot() as connection:
        preferences = list(
            preferences_of_votes(
                votes(connection, comments=False), left_out, each_answer=arguments.each_vote, scale=arguments.scale,
                pairing=arguments.pairing,
            )
        )  # fmt: skip
    chosen = [p for p in preferences if arguments.split in ("all", p.split)]
    if not chosen:
        raise UserError(
            f"'{store.location}': expected votes that prefer one of two completions in the split '{arguments.split}', "
            f"got none ({_listed(left_out) or 'no votes'}); collect votes first"
        )
    _log(store)
    write_preferences([_named(p, margin=arguments.margin) for p in chosen], output, force=arguments.force)
    _print_summary(output, chosen, left_out, store.study().kind, arguments)


def _named(preference: Preference, *, margin: bool) -> Preference:
    """Return a preference whose strength is in the column `strength`, which no trainer reads, or in `margin`."""
    from dataclasses import replace

    if margin or preference.margin is None:
        return preference
    return replace(preference, margin=None, extra={"strength": preference.margin, **preference.extra})


def _print_summary(
    output: Path, preferences: list[Preference], left_out: Counter[str], kind: str, arguments: Export
) -> None:
    from collections import Counter

    splits = Counter(str(preference.split) for preference in preferences)
    listed = ", ".join(f"{count} {split}" for split, count in sorted(splits.items(), reverse=True))
    print_text(f"{output}: {len(preferences)} preferences ({listed}), form {preferences[0].form}")
    made = {
        "pair": "one per item, of the side with more votes",
        "ranking": "one per pair of completions of an item, of the side that more people ranked higher",
        "rating": f"one per pair of completions of a prompt by mean rating on '{preferences[0].extra.get('scale')}'",
    }
    print_text("made: " + ("one per vote that prefers a side" if arguments.each_vote else made[kind]))
    print_text(f"left out: {_listed(left_out) or 'nothing'}")
    if arguments.margin:
        print_text("the column margin changes the loss of RewardTrainer, which subtracts it from the difference")


def _listed(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))


def _write_lines(lines: Any, output: Path) -> int:
    """Write lines to a file, and return their number; a failure leaves no file."""
    from rlalign.storage.atomic import replacing

    count = 0
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count

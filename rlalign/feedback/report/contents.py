"""The content of a report as JSON values, and the two files of a report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback.exports import log_look
from rlalign.feedback.progress import progress
from rlalign.feedback.report.judges import judges_part
from rlalign.feedback.report.page import render
from rlalign.feedback.report.values import Values
from rlalign.feedback.report.verdict import verdict_sentences
from rlalign.feedback.statistics import read_judgments, summarize
from rlalign.feedback.store import Store
from rlalign.feedback.study import Study
from rlalign.feedback.tables import study as study_table
from rlalign.storage.atomic import write_atomic

FORMAT = 1


def contents(connection: sa.Connection, study: Study) -> dict[str, Any]:
    """Return the content of the report of a study.

    Args:
        connection: a snapshot of the store.
        study: its study.

    Returns:
        `format`, `version` of rlalign, `created`, `study` (its settings that matter for the figures, its state and how
        often results were looked at), `people`, the statistics of the votes of people (see
        `rlalign.feedback.statistics.summary`), and `judges`, the LLM judges by their pseudonyms.
    """
    return contents_of(connection, study, summarize(read_judgments(connection, study), study))


def contents_of(connection: sa.Connection, study: Study, people: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the report of a study whose statistics are known; see `contents`."""
    row = connection.execute(sa.select(study_table)).one()
    counts = progress(connection)
    return {
        "format": FORMAT,
        "version": metadata.version("rlalign"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "study": {
            "name": study.name,
            "kind": study.kind,
            "state": row.state,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.created / 1000)),
            "config_hash": row.config_hash,
            "seed": study.seed,
            "selection": study.selection,
            "votes_per_item": study.votes_per_item,
            "stop_votes": study.stop.votes,
            "stop_width": study.stop.width,
            "items": counts["items"],
            "done_items": counts["done_items"],
            "votes": counts["votes"],
            "needed": counts["needed"],
            "looks": row.looks,
        },
        "people": people,
        "judges": judges_part(connection),
    }


@dataclass(frozen=True, slots=True)
class Report:
    """The files of a report.

    Attributes:
        page: the HTML page.
        data: the JSON file.
        verdict: the sentences at the head of the page.
    """

    page: Path
    data: Path
    verdict: tuple[str, ...]


def write_report(store: Store, path: Path) -> Report:
    """Write the page of a report and the JSON file beside it.

    The look is counted in the store: a study that ends when somebody likes its results has wrong intervals.

    Args:
        store: the store.
        path: of the page, which ends in .html; the JSON file has the same name with .json.

    Raises:
        UserError: a path is the store, or holds a file that is no report.
    """
    data = check_output(path, store.location)
    study = store.study()
    store.write(lambda c: log_look(c, "command line", "look")).result()
    text = json.dumps(store.read(lambda c: contents(c, study)), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(data, text + "\n")
    values = Values(json.loads(text))  # what the file holds
    return Report(write_atomic(path, render(values)), data, verdict_sentences(values["people"]))


def check_output(path: Path, location: str) -> Path:
    """Return the path of the JSON file beside a page, if both can be written.

    Args:
        path: of the page.
        location: of the store.

    Raises:
        UserError: the page does not end in .html, a path is the store, or a file there is no report.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output: expected the path of a page that ends in .html, got '{path}'; use report.html")
    data = path.with_suffix(".json")
    if path.resolve() == Path(location).resolve():
        raise UserError(f"--output: '{path}' is the store of the study; use another path")
    if data.exists() and not _is_report(data):
        raise UserError(f"'{data}' holds something else than a report; use another --output")
    return data


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "study", "people"} <= content.keys()

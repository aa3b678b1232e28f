"""Votes as lines of JSON and CSV, and the record of who exported them: for the administrator's page and the command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import sqlalchemy as sa

from rlalign.escaping.spreadsheet import cell
from rlalign.feedback.store import log_event
from rlalign.feedback.tables import study


def log_look(connection: sa.Connection, actor: str, what: Literal["look", "export"]) -> None:
    """Store that somebody looked at results, and count it until the study is complete.

    A stop that depends on results changes what an interval means.
    """
    before_the_end = sa.update(study).where(study.c.state != "complete")
    connection.execute(before_the_end.values(looks=study.c.looks + 1))
    log_event(connection, actor, what)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as lines of JSON."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a header and rows of CSV. Lists and objects are JSON; no text is a formula of a spreadsheet program."""
    names: list[str] | None = None
    for row in rows:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        if names is None:
            names = list(row)
            writer.writerow(names)
        values = (json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for v in row.values())
        writer.writerow([cell(value) for value in values])
        yield buffer.getvalue()

"""Votes as lines of JSON and CSV, and the record of who exported them: for the administrator's page and the command."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import sqlalchemy as sa

from rlalign.feedback.progress import is_finished
from rlalign.feedback.store import log_event
from rlalign.feedback.tables import study
from rlalign.preferences.csv_cells import write_cell


def log_look(connection: sa.Connection, actor: str, what: Literal["look", "export"]) -> None:
    """Store that somebody looked at results, and count it until the study is finished.

    A stop that depends on results changes what an interval means.
    """
    if not is_finished(connection):
        connection.execute(sa.update(study).values(looks=study.c.looks + 1))
    log_event(connection, actor, what)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as lines of JSON."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a header and rows of CSV, whose cells are read back exactly (`rlalign.preferences.csv_cells`)."""
    names: list[str] | None = None
    for row in rows:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        if names is None:
            names = list(row)
            writer.writerow(names)
        writer.writerow([write_cell(value, name) for name, value in row.items()])
        yield buffer.getvalue()

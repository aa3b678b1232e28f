"""Statements that each request executes, compiled once.

SQLAlchemy looks up the compiled form of a statement and binds its parameters in several times the time in which SQLite
executes it. The requests of annotators therefore execute the texts of their statements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


class Prepared:
    """A statement whose text is kept, for each kind of database.

    Its columns and parameters are integers, reals and texts, which need no conversion.

    Args:
        statement: with bound parameters.
    """

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._texts: dict[tuple[str, ...], _Text] = {}

    def __call__(self, connection: sa.Connection, **values: Any) -> sa.CursorResult[Any]:
        """Execute the statement with the values of its parameters."""
        names = (connection.dialect.name, *values)  # an INSERT has the columns that it is given
        text = self._texts.get(names)
        if text is None:
            compiled = self.statement.compile(dialect=connection.dialect, column_keys=list(values))
            order = compiled.positiontup if compiled.positional else None
            text = self._texts[names] = _Text(str(compiled), order, compiled.params)
        parameters = {**text.constants, **values}
        if text.order is None:
            return connection.exec_driver_sql(text.sql, parameters)
        return connection.exec_driver_sql(text.sql, tuple(parameters[name] for name in text.order))


@dataclass(frozen=True, slots=True)
class _Text:
    """The compiled form of a statement.

    Attributes:
        sql: the text.
        order: names of the parameters by position; None: the text names them.
        constants: parameters whose values are part of the statement.
    """

    sql: str
    order: list[str] | None
    constants: dict[str, Any]

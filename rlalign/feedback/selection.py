"""The choice of the next item: at random, by priority, or from batches that are drawn by uncertainty.

Statements are built once: building one takes longer than executing it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.tables import item, lease

Statement = sa.Select[Any]
Selection = Callable[[random.Random], Sequence[tuple[Statement, Mapping[str, Any]]]]
"""Takes a random generator and returns queries with their parameters, which are tried in order.

A query selects the columns of one item, for the annotator `person`. It must leave out items that are complete (`free`
is 0) and items that the annotator has had. It is part of the statement that gives the item away: it changes nothing.
"""

_HAD = sa.select(lease.c.id).where(lease.c.annotator == sa.bindparam("person"), lease.c.item == item.c.id)
OPEN_ITEMS: Statement = sa.select(item).where(item.c.free > 0, ~sa.exists(_HAD)).limit(1)
"""The items that the annotator `person` can get."""

_BEHIND = OPEN_ITEMS.where(item.c.place >= sa.bindparam("start")).order_by(item.c.place)
_BEFORE = OPEN_ITEMS.where(item.c.place < sa.bindparam("start")).order_by(item.c.place)
_BY_PRIORITY = OPEN_ITEMS.order_by(item.c.priority.desc(), item.c.id)
# items that a batch has selected have priorities above 0 (see `rlalign.feedback.enrollment`)
_OF_BATCHES = OPEN_ITEMS.where(item.c.priority > 0).order_by(item.c.priority.desc(), item.c.id)
# a condition on the priority would make SQLite sort all of these items
_NEXT_AT_RANDOM = OPEN_ITEMS.where(item.c.batch.is_(None)).order_by(item.c.place)


def at_random(rng: random.Random) -> Sequence[tuple[Statement, Mapping[str, Any]]]:
    """Choose an item by a random place in a random order that is stored with the items."""
    start = {"start": rng.random()}
    return [(_BEHIND, start), (_BEFORE, start)]


def by_priority(_: random.Random) -> Sequence[tuple[Statement, Mapping[str, Any]]]:
    """Choose the item of the largest priority; items of equal priority in the order of their ids."""
    return [(_BY_PRIORITY, {})]


def from_batches(_: random.Random) -> Sequence[tuple[Statement, Mapping[str, Any]]]:
    """Choose an item of the batches; if none is left for the annotator, the next one in the stored random order.

    The next batch takes over the items that were given in this way, as selected at random.
    """
    return [(_OF_BATCHES, {}), (_NEXT_AT_RANDOM, {})]


SELECTIONS: dict[str, Selection] = {"random": at_random, "priority": by_priority, "uncertainty": from_batches}
"""Selections by their names in study.toml."""

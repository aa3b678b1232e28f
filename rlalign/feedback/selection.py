"""The choice of the next item: at random, or by priority."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.tables import item, lease

Selection = Callable[[int, random.Random], list[sa.Select[Any]]]
"""Takes an annotator's id and a random generator, and returns queries of one item id each, tried in order.

A query must leave out items that are complete (`free` is 0) and items that the annotator has had. It is part of the
statement that gives the item away, so it must not change anything.
"""


def _open_items(annotator: int) -> sa.Select[Any]:
    """Return the query of the items that an annotator can get."""
    had = sa.select(lease.c.id).where(lease.c.annotator == annotator, lease.c.item == item.c.id)
    return sa.select(item.c.id).where(item.c.free > 0, ~sa.exists(had)).limit(1)


def at_random(annotator: int, rng: random.Random) -> list[sa.Select[Any]]:
    """Choose an item uniformly, by a random place in a random order that is stored with the items."""
    start = rng.random()
    query = _open_items(annotator).order_by(item.c.place)
    return [query.where(item.c.place >= start), query.where(item.c.place < start)]


def by_priority(annotator: int, _: random.Random) -> list[sa.Select[Any]]:
    """Choose the item of the largest priority; items of equal priority in the order of their ids."""
    return [_open_items(annotator).order_by(item.c.priority.desc(), item.c.id)]


SELECTIONS: dict[str, Selection] = {"random": at_random, "priority": by_priority}
"""Selections by their names in study.toml."""

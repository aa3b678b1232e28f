"""The rule that ends a study: a number of votes, or the width of the intervals of the win rates.

A study is never ended by a significant difference: an interval that is looked at until it excludes one half covers the
true value in 72 % of studies instead of 95 %. The width of an interval does not depend on which policy is ahead.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sqlalchemy as sa

from rlalign.feedback.enrollment import read_selected
from rlalign.feedback.progress import progress, votes
from rlalign.feedback.statistics.estimate import LEVEL, t_quantile
from rlalign.feedback.statistics.intervals import distinct, rate
from rlalign.feedback.store import log_event
from rlalign.feedback.study import Study
from rlalign.feedback.tables import study

_LEAST_PROMPTS = 30
"""Prompts below which an interval says little about its own width."""


def is_complete(connection: sa.Connection, described: Study) -> bool:
    """Return True if the stop rule of a study is fulfilled. A study without a rule ends when no item is left."""
    if described.stop.votes and progress(connection)["votes"] >= described.stop.votes:
        return True
    if not described.stop.width or described.kind != "pair":
        return False
    weights = None
    if described.selection == "uncertainty":
        selected = read_selected(connection)
        weights = dict(zip(selected.item.tolist(), selected.weight.tolist(), strict=True))
    return widest_interval(votes(connection, comments=False), weights) <= described.stop.width


def complete(connection: sa.Connection) -> None:
    """End a study: nobody gets another item. The items on screens can be answered."""
    changed = connection.execute(sa.update(study).where(study.c.state == "open").values(state="complete"))
    if changed.rowcount:
        log_event(connection, "stop rule", "stop")


def widest_interval(rows: Iterable[Mapping[str, Any]], weights: Mapping[int, float] | None = None) -> float:
    """Return the width of the widest 95 % interval of a win rate, in percentage points; infinite with few prompts.

    The win rate of a pair of policies is the mean of 1 for a win, 0 for a loss, and 1/2 for a tie or two bad
    completions. The votes of a group of near-duplicate prompts form a cluster; with G groups, and residuals e and
    weights w of the votes, approximately::

        width = 2 · t(0.975, G - 1) · sqrt(G / (G - 1) · Σ_g (Σ_{i in g} w_i e_i)²) / Σ w

    The interval is that of reports, for this panel of annotators (`rlalign.feedback.statistics.intervals.rate`). A
    prompt of wins and a prompt of losses are added, as Agresti and Coull do (1998, The American Statistician
    52:119-126): without them, a policy that won every vote would have an interval of width 0, and its lead would end
    the study.

    Args:
        rows: votes, as `rlalign.feedback.progress.votes` returns them.
        weights: id of an item -> weight of its votes (see `rlalign.feedback.enrollment.read_selected`); None: all 1.
    """
    scores: dict[tuple[str, ...], list[tuple[int, float, float]]] = defaultdict(list)
    for row in rows:
        if row["gold"] or row["repeat_of"] is not None or row["choice"] == "skip":
            continue
        first, second = row["policies"]
        score = {"a": 1.0, "b": 0.0}.get(row["choice"], 0.5)
        pair = tuple(sorted((first, second)))
        weight = 1.0 if weights is None else weights[row["item"]]
        scores[pair].append((row["group"], score if first == pair[0] else 1.0 - score, weight))
    return max((_width(votes_of_pair) for votes_of_pair in scores.values()), default=math.inf)


def _width(votes_of_pair: list[tuple[int, float, float]]) -> float:
    """Return the width of the panel's interval of votes: group, score and weight of each."""
    group = np.array([group for group, _, _ in votes_of_pair])
    if distinct(group) < _LEAST_PROMPTS:
        return math.inf
    score, weight = (np.array([vote[column] for vote in votes_of_pair]) for column in (1, 2))
    panel = rate(score, group, np.zeros_like(group), weight, method="win rate").panel
    # twice the half width: the bounds are cut off at 0 and 1, and a lead must not make an interval shorter
    return 200.0 * t_quantile((1 + LEVEL) / 2, panel.df) * panel.se

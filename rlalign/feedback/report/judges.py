"""LLM judges beside people: the values and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.judges.rows import PREFIX, judge_verdicts
from rlalign.feedback.progress import votes
from rlalign.feedback.report.cells import ESTIMATE_HEAD, Methods, estimate_cells, integer, percent, shown
from rlalign.feedback.report.values import Values
from rlalign.feedback.statistics.estimate import LEVEL, without_nan
from rlalign.feedback.statistics.judges import Agreement, Interval, JudgeReport, read_judge_report
from rlalign.html.components import note
from rlalign.html.markup import Html, tag
from rlalign.html.numbers import p_value
from rlalign.html.page import row, section, table

_LABELS = {
    "judge_with_ties": "judge and a person, with ties",
    "people_with_ties": "two people, with ties",
    "difference_with_ties": "difference",
    "judge_without_ties": "judge and a person, without ties",
    "people_without_ties": "two people, without ties",
    "difference_without_ties": "difference",
    "one_vote": "judge and a vote, items with one vote too",
    "flips": "verdicts that differ between the orders (ties)",
    "reversals": "winners that change with the order",
    "first": "answers for the completion that is shown first",
    "unparsed": "answers without a verdict",
    "refused": "refused answers",
}
_OF_JUDGE = ("flips", "reversals", "first", "unparsed", "refused")
"""Estimates of the judge alone: their votes are its answers, and no person is behind them."""


def judges_part(connection: sa.Connection) -> dict[str, Any]:
    """Return for each judge of a store its agreement with people beside that among people, and its flips.

    Args:
        connection: a snapshot.
    """
    by_judge: dict[str, list[dict[str, Any]]] = {}
    for verdict in judge_verdicts(connection):
        by_judge.setdefault(verdict["annotator"], []).append(verdict)
    if not by_judge:
        return {}
    people = [
        row
        for row in votes(connection, comments=False)
        if not row["gold"] and row["repeat_of"] is None and row["choice"] != "skip"
    ]
    return {name: _judge(people, verdicts) for name, verdicts in sorted(by_judge.items())}


def _judge(people: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    report = read_judge_report(people, verdicts)
    estimates = {
        name: {**asdict(interval), "level": LEVEL, "method": f"{_LABELS[name]}; {interval.method}"}
        for name, interval in _intervals(report).items()
    }
    content: dict[str, Any] = without_nan(
        {"pairs": report.pairs, "position_p": report.position_p, "estimates": estimates}
    )
    return content


def _intervals(report: JudgeReport) -> dict[str, Interval]:
    """Return the estimates of a judge by the keys of `_LABELS`."""
    found: dict[str, Interval] = {}
    of: dict[str, Agreement] = {"with_ties": report.with_ties, "without_ties": report.without_ties}
    for name, agreement in of.items():
        found |= {
            f"judge_{name}": agreement.judge, f"people_{name}": agreement.people,
            f"difference_{name}": agreement.difference,
        }  # fmt: skip
    return found | {name: getattr(report, name) for name in ("one_vote", *_OF_JUDGE)}


def judges_section(values: Values, methods: Methods) -> Html | None:
    """Return the section of the judges; None without one.

    Args:
        values: of `judges_part`.
        methods: of the report.
    """
    if not values.content:
        return None
    parts: list[object] = [
        note(
            "The verdicts of language models are not votes, and no figure above contains them. Each pair was asked in "
            "both orders, and a verdict that differs between them is a tie. Agreement with people means something only "
            "beside the agreement of people with each other on the same items."
        )
    ]
    head = ["", "items", *ESTIMATE_HEAD]
    numeric = set(range(1, len(head)))
    for name, judge in values.items():
        rows = [
            row([_LABELS[key], shown(part["items"], integer), *estimate_cells(part, percent, methods)], numeric)
            for key, part in judge["estimates"].items()
        ]
        parts += [
            tag("h3", name.removeprefix(PREFIX)),
            tag(
                "p", "Judge, ", shown(judge["pairs"], integer), " pairs in both orders; sign test of a preference "
                "for a position, p = ", shown(judge["position_p"], p_value), ".", class_="note",
            ),
            table(f"judge {name}", head, rows, numeric),
        ]  # fmt: skip
    return section("LLM judges", *parts, id_="judges")

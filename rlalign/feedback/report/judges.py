"""LLM judges beside people: the values and the section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from scipy import stats

from rlalign.feedback.judges.rows import PREFIX, judge_verdicts
from rlalign.feedback.progress import votes
from rlalign.feedback.report.cells import ESTIMATE_HEAD, Methods, estimate_cells, integer, percent, shown
from rlalign.feedback.report.values import Values
from rlalign.feedback.statistics.estimate import LEVEL, POWER, without_nan
from rlalign.feedback.statistics.judges import Agreement, Interval, JudgeReport, read_judge_report
from rlalign.html.components import note
from rlalign.html.markup import Html, tag
from rlalign.html.numbers import p_value
from rlalign.html.page import row, section, table

_SOURCE = (
    "Zheng et al. (2023), Judging LLM-as-a-judge, arXiv 2306.05685; Efron and Tibshirani (1993), An Introduction to "
    "the Bootstrap"
)
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
    items = {row["item"] for row in verdicts}
    groups = {row["group"] for row in verdicts}
    both = [row for row in people if row["item"] in items]
    of_people = {
        "prompts": len({row["group"] for row in both}),
        "people": len({row["annotator"] for row in both}),
        "votes": len(both),
    }
    of_judge = {"prompts": len(groups), "people": 0, "votes": 2 * len(items)}
    estimates = {
        name: _estimate(name, interval, of_judge if name in _OF_JUDGE else of_people)
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


def _estimate(name: str, interval: Interval, numbers: Mapping[str, int]) -> dict[str, Any]:
    # the smallest detectable difference of a normal estimate with an interval of this width
    width = (interval.high - interval.low) / (2 * stats.norm.ppf((1 + LEVEL) / 2))
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": LEVEL,
        "detectable": (stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)) * width,
        "items": interval.items,
        **numbers,
        "method": f"{_LABELS[name]}: share, percentile bootstrap over prompts",
        "source": _SOURCE,
    }


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

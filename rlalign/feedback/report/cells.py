"""Numbers, intervals and methods as cells of tables.

Each number is a `<data>` element with the value and its path in the JSON file. Each estimate is followed by the
prompts, people and votes behind it, the smallest difference that it would find, and its method.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from rlalign.feedback.report.values import Values
from rlalign.html.markup import Html, joined, tag
from rlalign.html.numbers import MISSING, number
from rlalign.html.page import row, table

Format = Callable[[float | None], str]
"""Returns a number as text."""

ESTIMATE_HEAD = ("estimate", "this panel", "population", "detects", "prompts", "people", "votes", "method")
"""Headings of the cells of `estimate_cells`."""


class Methods:
    """The methods of a report, numbered in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def mark(self, estimate: Values) -> Html:
        """Return the number of the method of an estimate, as a link to `listing`."""
        key = (str(estimate.content["method"]), str(estimate.content["source"]))
        place = self._numbers.setdefault(key, len(self._numbers) + 1)
        return tag("a", f"[{place}]", href=f"#method-{place}")

    def listing(self) -> Html:
        """Return all methods with their papers."""
        rows = [
            row([tag("span", f"[{place}]", id_=f"method-{place}"), method, source], set(), {1, 2})
            for (method, source), place in self._numbers.items()
        ]
        return table("methods", ["", "method", "source"], rows, set())


def percent(value: float | None) -> str:
    """Return a share in percent with one decimal."""
    return MISSING if value is None else f"{number(100 * value, decimals=1)} %"


def plain(value: float | None) -> str:
    """Return a number with three decimals."""
    return number(value)


def integer(value: float | None) -> str:
    """Return a count."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def shown(value: Values, text: Format) -> Html:
    """Return a number of the JSON file as text, with its value and path."""
    return tag("data", text(value.content), value=json.dumps(value.content), data_path=value.pointer)


def interval(estimate: Values, text: Format) -> Html:
    """Return `[low, high]`."""
    return joined(("[", shown(estimate["low"], text), ", ", shown(estimate["high"], text), "]"))


def estimate_cells(estimate: Values | None, text: Format, methods: Methods) -> list[object]:
    """Return the cells of an estimate with one or two intervals, as many as `ESTIMATE_HEAD`.

    The interval that may stand in a headline is bold: that for the population of annotators with five people or more.
    An estimate that does not exist is replaced by its reason.
    """
    if estimate is None:
        return [MISSING, *[""] * (len(ESTIMATE_HEAD) - 1)]
    if "refused" in estimate.content:
        return [reason(estimate), *[""] * (len(ESTIMATE_HEAD) - 1)]
    if "panel" not in estimate.content:
        alone = [tag("b", interval(estimate, text)), ""]
        of_population = "for the population" in estimate.content["method"]
        return _cells(estimate, alone[::-1] if of_population else alone, text, methods)
    main = estimate[estimate.content["headline"]]
    intervals: list[object] = []
    for name in ("panel", "population"):
        part = estimate.get(name)
        drawn = "" if part is None else interval(part, text)
        intervals.append(tag("b", drawn) if name == estimate.content["headline"] else drawn)
    return _cells(main, intervals, text, methods)


def _cells(main: Values, intervals: Sequence[object], text: Format, methods: Methods) -> list[object]:
    numbers = [shown(main[name], integer) for name in ("prompts", "people", "votes")]
    return [
        tag("b", shown(main["value"], text)), *intervals, shown(main["detectable"], text), *numbers, methods.mark(main)
    ]  # fmt: skip


def reason(refusal: Values) -> Html:
    """Return the reason why a statistic does not exist."""
    return tag("span", f"none: {refusal.content['refused']} ({refusal.content['detail']})", class_="refused")


def estimate_table(
    name: str, head: Sequence[str], rows: Sequence[tuple[Sequence[object], Values | None]], text: Format,
    methods: Methods,
) -> Html:  # fmt: skip
    """Return a table of estimates.

    Args:
        name: label for screen readers.
        head: headings of the columns before the estimate.
        rows: cells before the estimate, and the estimate.
        text: numbers as text.
        methods: of the report.
    """
    numeric = set(range(len(head), len(head) + len(ESTIMATE_HEAD)))
    drawn = [row([*cells, *estimate_cells(estimate, text, methods)], numeric) for cells, estimate in rows]
    return table(name, [*head, *ESTIMATE_HEAD], drawn, numeric)

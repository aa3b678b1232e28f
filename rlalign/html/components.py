"""Parts of a report's sections: notes, colored names, values with intervals, texts of models."""

from __future__ import annotations

from collections.abc import Mapping

from rlalign.html.markup import Html, joined, tag, visible
from rlalign.html.numbers import MISSING, Estimate, interval, number
from rlalign.html.svg import color_class

Colors = Mapping[str, int]
"""Name -> index of its color, the same in every table and drawing."""


def note(text: str) -> Html:
    """Return a paragraph that explains the table or drawing below it."""
    return tag("p", text, class_="note")


def colored_name(name: str, colors: Colors) -> Html:
    """Return a name, as of an algorithm or a policy, with a dot in its color."""
    key = tag("span", class_=f"key {color_class(colors[name])}")
    return tag("span", key, name, class_="name")


def group_row(name: str, width: int, details: str = "") -> Html:
    """Return a table row that heads a group of rows.

    Args:
        name: of the group.
        width: number of columns.
        details: text after the name.
    """
    return tag(
        "tr",
        tag("th", tag("span", tag("b", name), details and f" · {details}"), scope="rowgroup", colspan=width),
        class_="group",
    )


def estimate(value: Estimate | None, *, sign: bool = False, strong: bool = False) -> Html:
    """Return a value and its interval; `strong` sets the value in bold."""
    if value is None:
        return with_interval(MISSING, "")
    text = number(value.value, sign=sign)
    bounds = "" if value.value is None else interval(value, sign=sign)
    return with_interval(tag("b", text) if strong else text, bounds)


def with_interval(value: str, beside: str = "95 % CI") -> Html:
    """Return a value, or a column's heading, and the text beside it; the style sheet aligns the values of a column."""
    return joined((value, tag("span", beside, class_="ci")))


def value_only(value: Estimate | None, decimals: int = 3) -> str:
    """Return a value without its interval."""
    return number(None if value is None else value.value, decimals=decimals)


def titled_text(heading: Html, text: str) -> Html:
    """Return a prompt or completion under its heading."""
    return tag("div", heading, text_block(text))


def text_block(text: str) -> Html:
    """Return a prompt or completion as a paragraph that keeps its line breaks."""
    shown = visible(text)
    if not shown.strip():
        return tag("p", "(empty)", class_="quoted empty")
    # dir=auto: the text may be written from right to left
    return tag("p", shown, class_="quoted", dir="auto", tabindex="0")

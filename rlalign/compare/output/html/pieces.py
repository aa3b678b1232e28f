"""What the parts of a report are made of: notes, names with their colours, values with their intervals, texts."""

from __future__ import annotations

from collections.abc import Mapping

from rlalign.compare.output.html.html import Html, joined, tag, visible
from rlalign.compare.output.html.numbers import interval, number
from rlalign.compare.output.html.svg import shade
from rlalign.compare.results.schema import Estimate, ToThreshold

Colours = Mapping[str, int]
"""Algorithm -> index of its colour, the same in every table and picture."""


def note(text: str) -> Html:
    """What a reader must know to read what follows."""
    return tag("p", text, class_="note")


def name_of(algorithm: str, colours: Colours) -> Html:
    """An algorithm's name beside its colour."""
    key = tag("span", class_=f"key {shade(colours[algorithm])}")
    return tag("span", key, algorithm, class_="name")


def group(name: str, width: int, more: str = "") -> Html:
    """A row that names the environment of those below, and what else is to be said of it."""
    return tag(
        "tr",
        tag("th", tag("span", tag("b", name), more and f" · {more}"), scope="rowgroup", colspan=width),
        class_="group",
    )


def estimate(found: Estimate | None, *, sign: bool = False, strong: bool = False) -> Html:
    """A value and its interval."""
    if found is None:
        return with_interval("–", "")
    value = number(found.value, sign=sign)
    return with_interval(
        tag("b", value) if strong else value, "" if found.value is None else interval(found, sign=sign)
    )


def with_interval(value: str, beside: str = "95 % CI") -> Html:
    """A value, or the heading of a column, with what stands beside it; values of a column stand below each other."""
    return joined((value, tag("span", beside, class_="ci")))


def cost(found: ToThreshold) -> Html:
    """What it took to reach a threshold; where no seed got there, that it takes more than all had."""
    return estimate(found.restricted_mean) if found.beyond is None else with_interval(f"> {number(found.beyond)}", "")


def plain(found: Estimate | None, fine: int = 3) -> str:
    """A value without its interval."""
    return number(None if found is None else found.value, fine=fine)


def said(heading: Html, text: str) -> Html:
    """A text of a model or a prompt under its heading."""
    return tag("div", heading, completion(text))


def completion(text: str) -> Html:
    """A text of a model, as text."""
    shown = visible(text)
    if not shown.strip():
        return tag("p", "(empty)", class_="said empty")
    return tag("p", shown, class_="said", dir="auto", tabindex="0")

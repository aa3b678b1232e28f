"""What the parts of a report are made of: notes, names with their colours, values with their intervals, texts."""

from __future__ import annotations

from collections.abc import Mapping

from rlalign.compare.report.html import Html, joined, tag, visible
from rlalign.compare.report.numbers import interval, number
from rlalign.compare.report.svg import shade
from rlalign.compare.results import Estimate

Colours = Mapping[str, int]
"""Algorithm -> index of its colour, the same in every table and picture."""


def note(text: str) -> Html:
    """What a reader must know to read what follows."""
    return tag("p", text, class_="note")


def name_of(algorithm: str, colours: Colours) -> Html:
    """An algorithm's name beside its colour."""
    key = tag("span", class_=f"key {shade(colours[algorithm])}")
    return tag("span", key, algorithm, class_="name")


def group(name: str, width: int) -> Html:
    """A row that names the environment of those below."""
    return tag("tr", tag("td", tag("span", name), colspan=width), class_="group")


def estimate(found: Estimate | None, *, sign: bool = False, strong: bool = False) -> Html:
    """A value and its interval."""
    if found is None:
        return Html("–")
    value = number(found.value, sign=sign)
    ci = None if found.value is None else tag("span", interval(found, sign=sign), class_="ci")
    return joined((tag("b", value) if strong else value, ci))


def plain(found: Estimate | None, fine: int = 3) -> str:
    """A value without its interval."""
    return number(None if found is None else found.value, fine=fine)


def said(heading: Html, text: str) -> Html:
    """A text of a model or a prompt under its heading, as text."""
    shown = visible(text)
    if not shown.strip():
        return tag("div", heading, tag("p", "(empty)", class_="said empty"))
    return tag("div", heading, tag("p", shown, class_="said", dir="auto", tabindex="0"))

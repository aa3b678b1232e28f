"""Small pictures: axes, lines, bands, dots and direct labels as inline SVG. Colours are CSS variables of the page.

A picture has one width in user units and is shown at about that width on every screen, so that its type stays readable
on a phone; wide screens put several side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rlalign.compare.output.html.html import Html, joined, tag
from rlalign.compare.output.html.numbers import tick

WIDTH, HEIGHT = 400, 268
_CHAR = 6.3  # width of a character of a label
_LEADING = 13.0  # least distance of two labels
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line: colour index, points, and the band around it where there is one."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass
class Panel:
    """A picture being drawn. x and y are data coordinates; `right` leaves room for labels.

    Args:
        x, y: ranges of the axes.
        x_label, y_label, title: words.
        height: user units.
        left, right, top, bottom: margins.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    title: str = ""
    height: float = HEIGHT
    left: float = 46
    right: float = 14
    top: float = 30
    bottom: float = 42
    parts: list[Html] = field(default_factory=list)
    hover: list[Series] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """User units of a data point."""
        return self.at_x(x), self.at_y(y)

    def at_x(self, x: float) -> float:
        """Horizontal place."""
        return self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - self.left - self.right)

    def at_y(self, y: float) -> float:
        """Vertical place."""
        return (
            self.height
            - self.bottom
            - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.top - self.bottom)
        )

    def grid(self, *, horizontal: bool = True, vertical: bool = False) -> None:
        """Axes: thin lines at round numbers, their labels, the words."""
        bottom, end = self.height - self.bottom, WIDTH - self.right
        if horizontal:
            for value in ticks(*self.y):
                y = self.at_y(value)
                self._add("line", x1=self.left, x2=end, y1=y, y2=y, class_="grid")
                self.text(self.left - 7, y + 3.6, tick(value), "tick end")
        for value in ticks(*self.x):
            x = self.at_x(value)
            if vertical:
                self._add("line", x1=x, x2=x, y1=self.top, y2=bottom, class_="grid")
            else:
                self._add("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis")
            self.text(x, bottom + 17, tick(value), "tick mid")
        self._add("line", x1=self.left, x2=end, y1=bottom, y2=bottom, class_="axis")
        self.text((self.left + end) / 2, self.height - 5, self.x_label, "word mid")

    def line(self, x: Iterable[float], y: Iterable[float | None], colour: int, *, class_: str = "line") -> None:
        """A polyline with gaps where y is missing."""
        for run in _runs(zip(x, y, strict=True)):
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*p) for p in run))
            self._add("polyline", points=points, class_=f"{class_} {shade(colour)}")

    def band(self, series: Series, *, class_: str = "band") -> None:
        """The area between low and high."""
        rows = [
            (x, a, b)
            for x, a, b in zip(series.x, series.low, series.high, strict=True)
            if a is not None and b is not None
        ]
        if len(rows) > 1:
            edge = [self.at(x, self._inside(b)) for x, _, b in rows]
            edge += [self.at(x, self._inside(a)) for x, a, _ in reversed(rows)]
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py in edge)
            self._add("polygon", points=points, class_=f"{class_} {shade(series.colour)}")

    def dot(self, x: float, y: float, colour: int, *, class_: str = "dot", r: float = 3.4, note: str = "") -> None:
        """A dot; `note` is what hovering shows."""
        px, py = self.at(x, y)
        title = tag("title", note) if note else None
        self.parts.append(tag("circle", title, cx=f"{px:.1f}", cy=f"{py:.1f}", r=r, class_=f"{class_} {shade(colour)}"))

    def whisker(self, low: float, high: float, y: float, colour: int) -> None:
        """A horizontal interval."""
        py = self.at_y(y)
        self._add(
            "line", x1=self.at_x(self._inside_x(low)), x2=self.at_x(self._inside_x(high)), y1=py, y2=py,
            class_=f"whisker {shade(colour)}",
        )  # fmt: skip

    def rule(self, *, x: float | None = None, y: float | None = None) -> None:
        """A dashed line at a value."""
        if x is not None and self.x[0] <= x <= self.x[1]:
            px = self.at_x(x)
            self._add("line", x1=px, x2=px, y1=self.top, y2=self.height - self.bottom, class_="rule")
        if y is not None and self.y[0] <= y <= self.y[1]:
            py = self.at_y(y)
            self._add("line", x1=self.left, x2=WIDTH - self.right, y1=py, y2=py, class_="rule")

    def labels(self, ends: Sequence[tuple[str, int, float, float]]) -> None:
        """Names at the ends of lines, (name, colour, x, y), moved apart where they would overlap."""
        wanted = sorted(((self.at_y(y), name, colour, self.at_x(x)) for name, colour, x, y in ends))
        places = apart([w[0] for w in wanted], _LEADING, self.top, self.height - self.bottom)
        for (_, name, colour, x), place in zip(wanted, places, strict=True):
            self.text(x + 7, place + 3.8, name, f"label {shade(colour)}")

    def text(self, x: float, y: float, words: str, class_: str) -> None:
        """A text at user units."""
        if words:
            self.parts.append(tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_))

    def svg(self) -> Html:
        """The picture."""
        self.text(2, 14, self.title, "title")
        self.text(2, self.top - 13, self.y_label, "word")
        data = None
        if self.hover:
            box = [self.left, WIDTH - self.right, self.top, self.height - self.bottom]
            rows = [
                {
                    "name": s.name,
                    "colour": shade(s.colour),
                    "x": [_short(v) for v in s.x],
                    "y": [_short(v) for v in s.y],
                    "low": [_short(v) for v in s.low],
                    "high": [_short(v) for v in s.high],
                }
                for s in self.hover
            ]
            data = json.dumps({"x": self.x, "y": self.y, "box": box, "label": self.x_label, "series": rows})
        words = ". ".join(w for w in (self.title, self.y_label, self.x_label) if w)
        return tag(
            "svg", joined(self.parts), viewBox=f"0 0 {WIDTH} {self.height:g}", role="img", aria_label=words,
            data_hover=data,
        )  # fmt: skip

    def _add(self, name: str, **attributes: object) -> None:
        rounded = {k: f"{v:.1f}" if isinstance(v, float) else v for k, v in attributes.items()}
        self.parts.append(tag(name, **rounded))

    def _inside(self, y: float) -> float:
        return min(max(y, self.y[0]), self.y[1])

    def _inside_x(self, x: float) -> float:
        return min(max(x, self.x[0]), self.x[1])


def shade(colour: int) -> str:
    """The CSS class of a colour index: beyond eight they come again, dashed; below 0 is nobody's."""
    if colour < 0:
        return "c-none"
    return f"c{colour % 8}" + (" again" if colour >= 8 else "")


def tall(labels: int) -> float:
    """Height of a panel that has room for so many labels one above the other."""
    return max(HEIGHT, 88 + _LEADING * labels)


def room(names: Iterable[str]) -> float:
    """Right margin that holds the longest of some labels."""
    return 16 + _CHAR * max((len(n) for n in names), default=0)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within a range: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.8)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) + 0.0 for i in range(count)]


def span(values: Iterable[float | None], *, zero: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """The range of some numbers with a margin; `zero`: from 0 on without one."""
    seen = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    low, high = min(seen + [0.0] * zero), max(seen)
    gap = (high - low) or abs(high) or 1.0
    if high == low:
        high = low + gap
    return (low if zero and low == 0.0 else low - margin * gap), high + margin * gap


def apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Sorted places moved as little as need be, so that neighbours are `least` apart and all lie in a range."""
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + least)
    if moved and moved[-1] > high:
        moved[-1] = high
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - least)
    return [max(m, low - least) for m in moved]


def _runs(points: Iterable[tuple[float, float | None]]) -> list[list[Point]]:
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")

"""Drawings as inline SVG: axes, lines, bands, dots and labels at the ends of lines.

Colors are CSS variables of the page. All drawings have the same width in user units and are shown at about that width
on every screen, so that their text stays readable on a phone. Wide screens show several side by side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rlalign.html.markup import Html, joined, tag
from rlalign.html.numbers import tick

WIDTH, HEIGHT = 400, 268  # user units
_CHAR_WIDTH = 6.3  # average width of a character of a label
_LABEL_DISTANCE = 13.0  # smallest vertical distance of two labels
_BASELINE = 3.8  # from the middle of a label's text to its baseline
NUM_COLORS = 8
"""Colors of the page; further series use the same colors again, dashed."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line: color index, points, and the edges of its band, empty without a band."""

    name: str
    color: int
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass
class Panel:
    """A drawing with two axes, built up by its methods and returned as markup by `svg`.

    Methods take data coordinates unless their docstring states others.

    Args:
        x, y: ranges of the axes.
        x_label, y_label, title: texts.
        height: in user units.
        left, right, top, bottom: margins in user units; labels at the ends of lines need a wide right margin.
        parts: elements, in the order in which they are painted.
        hover: series whose values are shown next to the pointer.
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
        """Return a data point in user units."""
        return self.at_x(x), self.at_y(y)

    def at_x(self, x: float) -> float:
        """Return the horizontal coordinate in user units."""
        return self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - self.left - self.right)

    def at_y(self, y: float) -> float:
        """Return the vertical coordinate in user units, which count from the top."""
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def grid(self, *, horizontal: bool = True, vertical: bool = False) -> None:
        """Draw the axes: lines or ticks at round numbers, their labels, and the label of the horizontal axis."""
        bottom = self.height - self.bottom
        end = WIDTH - self.right
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

    def line(self, x: Iterable[float], y: Iterable[float | None], color: int, *, class_: str = "line") -> None:
        """Draw a line with gaps where y is missing."""
        for segment in _segments(zip(x, y, strict=True)):
            places = [self.at(*point) for point in segment]
            self._add("polyline", points=_points(places), class_=f"{class_} {color_class(color)}")

    def band(self, series: Series, *, class_: str = "band") -> None:
        """Draw the area between low and high; nothing for fewer than two points."""
        edges = [
            (x, low, high)
            for x, low, high in zip(series.x, series.low, series.high, strict=True)
            if low is not None and high is not None
        ]
        if len(edges) > 1:
            # along the upper edge and back along the lower one
            outline = [self.at(x, self._clip_y(high)) for x, _, high in edges]
            outline += [self.at(x, self._clip_y(low)) for x, low, _ in reversed(edges)]
            self._add("polygon", points=_points(outline), class_=f"{class_} {color_class(series.color)}")

    def dot(self, x: float, y: float, color: int, *, class_: str = "dot", r: float = 3.4, note: str = "") -> None:
        """Draw a dot; the browser shows `note` when the pointer is on it."""
        px, py = self.at(x, y)
        title = tag("title", note) if note else None
        self.parts.append(
            tag("circle", title, cx=f"{px:.1f}", cy=f"{py:.1f}", r=r, class_=f"{class_} {color_class(color)}")
        )

    def whisker(self, low: float, high: float, y: float, color: int) -> None:
        """Draw a horizontal interval."""
        py = self.at_y(y)
        self._add(
            "line", x1=self.at_x(self._clip_x(low)), x2=self.at_x(self._clip_x(high)), y1=py, y2=py,
            class_=f"whisker {color_class(color)}",
        )  # fmt: skip

    def reference_line(self, *, x: float | None = None, y: float | None = None) -> None:
        """Draw a dashed line at a value, unless it is None or outside the range."""
        if x is not None and self.x[0] <= x <= self.x[1]:
            px = self.at_x(x)
            self._add("line", x1=px, x2=px, y1=self.top, y2=self.height - self.bottom, class_="rule")
        if y is not None and self.y[0] <= y <= self.y[1]:
            py = self.at_y(y)
            self._add("line", x1=self.left, x2=WIDTH - self.right, y1=py, y2=py, class_="rule")

    def labels(self, ends: Sequence[tuple[str, int, float, float]]) -> None:
        """Write names at the ends of lines, (name, color, x, y), moved apart if they would overlap."""
        labels = sorted((self.at_y(y), name, color, self.at_x(x)) for name, color, x, y in ends)
        places = separate([label[0] for label in labels], _LABEL_DISTANCE, self.top, self.height - self.bottom)
        for (_, name, color, x), place in zip(labels, places, strict=True):
            self.text(x + 7, place + _BASELINE, name, f"label {color_class(color)}")

    def text(self, x: float, y: float, text: str, class_: str) -> None:
        """Write a text at a place in user units."""
        if text:
            self.parts.append(tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_))

    def svg(self) -> Html:
        """Return the drawing."""
        self.text(2, 14, self.title, "title")
        self.text(2, self.top - 13, self.y_label, "word")
        data = None  # page.js reads it to show the values next to the pointer
        if self.hover:
            box = [self.left, WIDTH - self.right, self.top, self.height - self.bottom]
            rows = [
                {
                    "name": s.name,
                    "color": color_class(s.color),
                    "x": [_rounded(v) for v in s.x],
                    "y": [_rounded(v) for v in s.y],
                    "low": [_rounded(v) for v in s.low],
                    "high": [_rounded(v) for v in s.high],
                }
                for s in self.hover
            ]
            data = json.dumps({"x": self.x, "y": self.y, "box": box, "label": self.x_label, "series": rows})
        description = ". ".join(text for text in (self.title, self.y_label, self.x_label) if text)
        return tag(
            "svg", joined(self.parts), viewBox=f"0 0 {WIDTH} {self.height:g}", role="img", aria_label=description,
            data_hover=data,
        )  # fmt: skip

    def _add(self, name: str, **attributes: object) -> None:
        rounded = {k: f"{v:.1f}" if isinstance(v, float) else v for k, v in attributes.items()}
        self.parts.append(tag(name, **rounded))

    def _clip_y(self, y: float) -> float:
        return min(max(y, self.y[0]), self.y[1])

    def _clip_x(self, x: float) -> float:
        return min(max(x, self.x[0]), self.x[1])


def color_class(color: int) -> str:
    """Return the CSS classes of a color index: colors repeat as dashed lines; a negative index is gray."""
    if color < 0:
        return "c-none"
    return f"c{color % NUM_COLORS}" + (" dashed" if color >= NUM_COLORS else "")


def panel_height(labels: int) -> float:
    """Return the height of a panel in which a column of labels fits."""
    return max(HEIGHT, 88 + _LABEL_DISTANCE * labels)  # 88: the margins above and below


def label_margin(names: Iterable[str]) -> float:
    """Return the margin in which the longest label fits."""
    return 16 + _CHAR_WIDTH * max((len(name) for name in names), default=0)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers within a range, about `about` of them: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.8)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) + 0.0 for i in range(count)]


def axis_range(values: Iterable[float | None], *, zero: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """Return the range of the finite values, widened by a margin.

    Args:
        values: None, NaN and infinities are ignored.
        zero: include 0, and leave out the margin below it.
        margin: share of the range that is added at either end.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    low = min([*finite, 0.0]) if zero else min(finite)
    high = max(finite)
    size = (high - low) or abs(high) or 1.0  # a single value still needs a range
    if high == low:
        high = low + size
    return (low if zero and low == 0.0 else low - margin * size), high + margin * size


def separate(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return sorted places, moved so that neighbors are `distance` apart and all lie between low and high.

    If the range is too short for all of them, the first ones may lie up to `distance` below `low`.
    """
    moved = list(places)
    for i in range(1, len(moved)):  # push each place up, away from the one before it
        moved[i] = max(moved[i], moved[i - 1] + distance)
    if moved and moved[-1] > high:  # then push back down from the upper end
        moved[-1] = high
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - distance)
    return [max(place, low - distance) for place in moved]


def _segments(points: Iterable[tuple[float, float | None]]) -> list[list[Point]]:
    """Split points into the stretches without a missing value."""
    segments: list[list[Point]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            segments.append([])
        else:
            segments[-1].append((x, y))
    return [segment for segment in segments if segment]


def _points(places: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")

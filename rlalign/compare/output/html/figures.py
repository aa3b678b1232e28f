"""The pictures of a study: one function each, from results to SVG. Colours follow the order of algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlalign.compare.analysis.two_way import t_interval
from rlalign.compare.output.html.html import Html
from rlalign.compare.output.html.numbers import interval, number
from rlalign.compare.output.html.svg import WIDTH, Panel, Series, room, span, tall
from rlalign.compare.results.schema import Curve, EnvResult, Estimate, Profile

BUDGET_WORDS = {
    "samples": "samples drawn",
    "tokens": "tokens generated",
    "updates": "optimizer steps",
    "seconds": "seconds of computing",
}
MOST_PAIRS = 15
BAND_FROM = 3
"""Seeds: Student's t of two has one degree of freedom, and its band hides all else."""
_CROWD = 5  # so many bands above each other are drawn paler
_ROW = 26.0


@dataclass(frozen=True)
class Course:
    """The mean over seeds at equal steps, with its pointwise 95 % interval (Student's t), against the mean budget.

    No interval where there are fewer than BAND_FROM seeds.
    """

    x: list[float]
    y: list[float | None]
    low: list[float | None]
    high: list[float | None]


def course(curves: Sequence[Curve], x: str, y: str = "reward") -> Course:
    """The course of an algorithm; a seed that failed counts as far as it went."""
    xs: list[float] = []
    found: list[tuple[float | None, float | None, float | None]] = []
    for i in range(max((len(c.step) for c in curves), default=0)):
        there = [c for c in curves if i < len(c.step)]
        values = [v for c in there if (v := getattr(c, y)[i]) is not None]
        at = [b for c in there if (b := getattr(c, x)[i]) is not None]
        if not at:
            continue
        xs.append(sum(at) / len(at))
        if not values:
            found.append((None, None, None))
        elif len(values) < BAND_FROM:
            found.append((sum(values) / len(values), None, None))
        else:
            t = t_interval(values)
            found.append((t.value, t.low, t.high))
    means, low, high = ([_finite(v[k]) for v in found] for k in range(3))
    return Course(xs, means, low, high)


def learning_curves(name: str, env: EnvResult, colours: Mapping[str, int], budget: str) -> Html:
    """Mean reward over seeds against a budget, with its 95 % band, or each seed where a band would say nothing.

    Nothing is smoothed.
    """
    courses = {a: course(r.curves, budget) for a, r in env.algorithms.items()}
    alone = [] if _seeds(env) >= BAND_FROM else [(a, c) for a, r in env.algorithms.items() for c in r.curves]
    heights = [v for line in (*(c.y for c in courses.values()), *(c.reward for _, c in alone)) for v in line]
    edges = [v for c in courses.values() for v in (*c.low, *c.high)]
    series = [Series(a, colours[a], c.x, c.y, c.low, c.high) for a, c in courses.items()]
    panel = Panel(
        x=span((x for c in courses.values() for x in c.x), zero=True, margin=0.0),
        y=_bounded(span([*heights, env.threshold]), edges),
        x_label=BUDGET_WORDS[budget],
        y_label=env.curve,
        title=name,
        height=tall(len(courses)),
        right=room(courses),
        top=46,
    )
    panel.grid()
    panel.rule(y=env.threshold)
    for s in series:
        panel.band(s, class_="band many" if len(series) > _CROWD else "band")
    for a, c in alone:
        panel.line(getattr(c, budget), c.reward, colours[a], class_="one")
    for s in series:
        panel.line(s.x, s.y, s.colour)
    panel.labels([(s.name, s.colour, panel.x[1], y) for s in series if (y := _last(s.y)) is not None])
    panel.hover = series
    return panel.svg()


def final_scores(name: str, env: EnvResult, colours: Mapping[str, int], numbers: Sequence[int]) -> Html:
    """Every seed's final reward as a dot, the mean with its 95 % interval above them, the start as a tick.

    `numbers` are the seeds' own, in the order of the results.
    """
    seeds = {a: [_mean(row) for row in r.final] for a, r in env.algorithms.items()}
    starts = [_mean(row) for r in env.algorithms.values() for row in r.start]
    marks = [v for r in env.algorithms.values() for v in (r.mean.low, r.mean.high)]
    panel = _rows(name, list(seeds), span([*starts, *(v for s in seeds.values() for v in s), *marks]))
    panel.x_label = f"final reward, {env.split} prompts"
    panel.grid(horizontal=False, vertical=True)
    start = [s for s in starts if s is not None]
    panel.rule(x=sum(start) / len(start) if start else None)
    for row, (algorithm, result) in enumerate(env.algorithms.items()):
        colour, y = colours[algorithm], -float(row)
        for k, value in enumerate(seeds[algorithm]):
            if value is not None:
                failed = result.failed[k]
                note = f"{algorithm}, seed {numbers[k]}{', failed' if failed else ''}: {number(value)}"
                panel.dot(value, y - 0.16, colour, class_="seed failed" if failed else "seed", r=3.0, note=note)
        _estimate(panel, result.mean.value, result.mean.low, result.mean.high, y + 0.2, colour)
        panel.text(panel.left - 8, panel.at_y(y) + 4, algorithm, "tick end name")
    return panel.svg()


def differences(name: str, env: EnvResult, colours: Mapping[str, int]) -> Html:
    """Paired differences with their 95 % intervals; to the right of 0 the first of the pair is better.

    Of many pairs, those of the algorithm with the highest mean.
    """
    pairs = env.pairs
    if len(pairs) > MOST_PAIRS:
        best = max(env.algorithms, key=lambda a: env.algorithms[a].mean.value or -math.inf)
        pairs = [p for p in pairs if best in (p.a, p.b)]
    names = [f"{p.a} − {p.b}" for p in pairs]
    panel = _rows(name, names, span([0.0, *(v for p in pairs for v in _three(p.difference))]))
    panel.x_label = "difference of final reward, 95 % CI"
    panel.grid(horizontal=False, vertical=True)
    panel.rule(x=0.0)
    for row, pair in enumerate(pairs):
        d, y = pair.difference, -float(row)
        colour = colours[pair.winner] if pair.winner is not None else -1
        _estimate(panel, d.value, d.low, d.high, y, colour)
        panel.text(panel.left - 8, panel.at_y(y) + 4, names[row], "tick end name")
    return panel.svg()


def profiles(name: str, found: Mapping[str, Profile], colours: Mapping[str, int], x_label: str) -> Html:
    """Share of runs whose final score is above tau, with pointwise 95 % bands where it is neither none nor all."""
    series = [Series(a, colours[a], p.tau, p.share, *_open(p)) for a, p in found.items()]
    band = "band many" if len(series) > _CROWD else "band"
    panel = Panel(
        x=span((t for p in found.values() for t in p.tau), margin=0.0),
        y=(0.0, 1.0),
        x_label=x_label,
        y_label="share of seeds above",
        title=name,
        top=46,
    )
    panel.grid()
    for s in series:
        panel.band(s, class_=band)
    for s in series:
        panel.line(s.x, s.y, s.colour)
    panel.hover = series
    return panel.svg()


def frontier(name: str, env: EnvResult, colours: Mapping[str, int], numbers: Sequence[int]) -> Html | None:
    """Reward against the KL to the start, on the way (line) and at the end of each seed (dots)."""
    ways = {a: (course(r.curves, "step", "kl").y, course(r.curves, "step").y) for a, r in env.algorithms.items()}
    if all(v is None for kl, _ in ways.values() for v in kl):
        return None
    ends = {a: [(_last(c.kl), _last(c.reward)) for c in r.curves] for a, r in env.algorithms.items()}
    kls = [v for kl, _ in ways.values() for v in kl] + [k for e in ends.values() for k, _ in e]
    rewards = [v for _, y in ways.values() for v in y] + [y for e in ends.values() for _, y in e]
    panel = Panel(
        x=span(kls, zero=True),
        y=span(rewards),
        x_label="KL to the start, nats per completion",
        y_label=env.curve,
        title=name,
        height=tall(len(ways)),
        right=room(ways),
        top=46,
    )
    panel.grid()
    panel.rule(x=env.kl_level)
    for algorithm, (kl, reward) in ways.items():
        both = [(k, r) for k, r in zip(kl, reward, strict=True) if k is not None]
        panel.line([k for k, _ in both], [r for _, r in both], colours[algorithm])
        for seed, (k, r) in zip(numbers, ends[algorithm], strict=True):
            if k is not None and r is not None:
                note = f"{algorithm}, seed {seed}: {number(r)} at {number(k)} nats"
                panel.dot(k, r, colours[algorithm], class_="seed", r=2.6, note=note)
    tails = [(a, colours[a], _last(kl), _last(reward)) for a, (kl, reward) in ways.items()]
    panel.labels([(a, c, k, r) for a, c, k, r in tails if k is not None and r is not None])
    return panel.svg()


def _seeds(env: EnvResult) -> int:
    return max((len(r.curves) for r in env.algorithms.values()), default=0)


def _open(p: Profile) -> tuple[list[float | None], list[float | None]]:
    """The band next to steps only: where no seed or every seed is above, those of all algorithms lie on each other."""
    n = len(p.share)
    inside = [any(0 < s < 1 for s in p.share[max(0, i - 1) : i + 2]) for i in range(n)]
    low, high = ([v if keep else None for v, keep in zip(edge, inside, strict=True)] for edge in (p.low, p.high))
    return low, high


def _rows(title: str, names: Sequence[str], x: tuple[float, float]) -> Panel:
    left = min(room(names) - 2, WIDTH * 0.45)
    height = 30 + _ROW * len(names) + 44
    return Panel(x=x, y=(0.5 - len(names), 0.5), title=title, height=height, left=left, top=26)


def _estimate(panel: Panel, value: float | None, low: float | None, high: float | None, y: float, colour: int) -> None:
    if value is None:
        return
    if low is not None and high is not None:
        panel.whisker(low, high, y, colour)
    note = f"{number(value)} {interval(Estimate(value, low, high))}"
    panel.dot(value, y, colour, r=4.0, note=note)


def _bounded(inner: tuple[float, float], edges: Sequence[float | None]) -> tuple[float, float]:
    """The range of the lines, widened for the bands by at most a quarter: a band of two seeds would hide the lines."""
    gap = (inner[1] - inner[0]) / 4
    seen = [e for e in edges if e is not None]
    return max(min([inner[0], *seen]), inner[0] - gap), min(max([inner[1], *seen]), inner[1] + gap)


def _mean(row: Sequence[float | None]) -> float | None:
    seen = [v for v in row if v is not None]
    return sum(seen) / len(seen) if seen else None


def _last(values: Sequence[float | None]) -> float | None:
    return next((v for v in reversed(values) if v is not None), None)


def _three(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.low, estimate.value, estimate.high


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value

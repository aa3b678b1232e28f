"""Drawings of a study: one function each, from results to SVG. Colors follow the order of algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlalign.compare.output.series import BUDGET_LABELS, learning_curve, seed_means, single_seed_curves
from rlalign.compare.results.schema import EnvResult, Pair, Profile
from rlalign.html.components import Colors
from rlalign.html.markup import Html
from rlalign.html.numbers import number
from rlalign.html.rows import draw_estimate, row_label, row_panel
from rlalign.html.svg import Panel, Series, axis_range, label_margin, panel_height

MAX_PAIRS = 15
"""Pairs that are drawn and listed; of more, a selection."""
_PALE_FROM = 6  # bands; so many above each other would be opaque, so they are paler
_LABELED_TOP = 46  # top margin of a panel with a label above its vertical axis


def learning_curves(name: str, env: EnvResult, colors: Colors, budget: str) -> Html:
    """Draw mean reward over seeds against a budget, with 95 % bands, or single seeds if they are too few for a band.

    Nothing is smoothed.
    """
    curves = {algorithm: learning_curve(result.curves, budget) for algorithm, result in env.algorithms.items()}
    single_seeds = single_seed_curves(env)
    values = [value for curve in curves.values() for value in curve.y]
    values += [value for per_seed in single_seeds.values() for curve in per_seed for value in curve.reward]
    edges = [value for curve in curves.values() for value in (*curve.low, *curve.high)]
    series = [Series(a, colors[a], c.x, c.y, c.low, c.high) for a, c in curves.items()]
    panel = Panel(
        x=axis_range((x for curve in curves.values() for x in curve.x), zero=True, margin=0.0),
        y=_with_bands(axis_range([*values, env.threshold]), edges),
        x_label=BUDGET_LABELS[budget],
        y_label=env.curve,
        title=name,
        height=panel_height(len(curves)),
        right=label_margin(curves),
        top=_LABELED_TOP,
    )
    panel.grid()
    panel.reference_line(y=env.threshold)
    # painted in this order, so that mean curves are above single seeds, and those above bands
    _bands(panel, series)
    for algorithm, per_seed in single_seeds.items():
        for curve in per_seed:
            panel.line(getattr(curve, budget), curve.reward, colors[algorithm], class_="single-seed")
    for s in series:
        panel.line(s.x, s.y, s.color)
    ends = [(s.name, s.color, panel.x[1], _last(s.y)) for s in series]
    panel.labels([(label, color, x, y) for label, color, x, y in ends if y is not None])
    panel.hover = series
    return panel.svg()


def final_scores(name: str, env: EnvResult, colors: Colors, seeds: Sequence[int]) -> Html:
    """Draw each seed's final reward as a dot, the mean with its 95 % interval, and the mean before training as a line.

    Args:
        name: title.
        env: results of the environment.
        colors: algorithm -> color index.
        seeds: the seeds, in the order of the results.
    """
    finals = {algorithm: seed_means(result.final) for algorithm, result in env.algorithms.items()}
    initial = [value for result in env.algorithms.values() for value in seed_means(result.start)]
    extent = [*initial]
    for algorithm, result in env.algorithms.items():
        extent += [*finals[algorithm], result.mean.low, result.mean.high]
    panel = row_panel(name, list(finals), axis_range(extent))
    panel.x_label = f"final reward, {env.split} prompts"
    panel.grid(horizontal=False, vertical=True)
    measured = [value for value in initial if value is not None]
    panel.reference_line(x=sum(measured) / len(measured) if measured else None)
    for row, (algorithm, result) in enumerate(env.algorithms.items()):
        color = colors[algorithm]
        y = -float(row)
        for seed, value, failed in zip(seeds, finals[algorithm], result.failed, strict=False):
            if value is not None:
                note = f"{algorithm}, seed {seed}{', failed' if failed else ''}: {number(value)}"
                class_ = "seed failed" if failed else "seed"
                panel.dot(value, y - 0.16, color, class_=class_, r=3.0, note=note)  # below the row's middle
        draw_estimate(panel, result.mean, y + 0.2, color)  # above it
        row_label(panel, y, algorithm)
    return panel.svg()


def differences(name: str, env: EnvResult, colors: Colors) -> Html:
    """Draw paired differences with their 95 % intervals; to the right of 0 the first of the pair is better.

    Of more than MAX_PAIRS pairs, only those of the algorithm with the highest mean are drawn.
    """
    pairs = _selected_pairs(env)
    labels = [f"{pair.a} − {pair.b}" for pair in pairs]
    extent: list[float | None] = [0.0]
    for pair in pairs:
        extent += [pair.difference.low, pair.difference.value, pair.difference.high]
    panel = row_panel(name, labels, axis_range(extent))
    panel.x_label = "difference of final reward, 95 % CI"
    panel.grid(horizontal=False, vertical=True)
    panel.reference_line(x=0.0)
    for row, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        color = colors[pair.winner] if pair.winner is not None else -1  # -1: gray
        draw_estimate(panel, pair.difference, -float(row), color)
        row_label(panel, -float(row), label)
    return panel.svg()


def performance_profiles(name: str, profiles: Mapping[str, Profile], colors: Colors, x_label: str) -> Html:
    """Draw the share of seeds whose final score is above tau, with pointwise 95 % bands next to its steps."""
    series = [Series(a, colors[a], p.tau, p.share, *_band_at_steps(p)) for a, p in profiles.items()]
    panel = Panel(
        x=axis_range((tau for profile in profiles.values() for tau in profile.tau), margin=0.0),
        y=(0.0, 1.0),
        x_label=x_label,
        y_label="share of seeds above",
        title=name,
        top=_LABELED_TOP,
    )
    panel.grid()
    _bands(panel, series)
    for s in series:
        panel.line(s.x, s.y, s.color)
    panel.hover = series
    return panel.svg()


def frontier(name: str, env: EnvResult, colors: Colors, seeds: Sequence[int]) -> Html | None:
    """Draw reward against KL: the mean over training as a line, the end of each seed as a dot; None without a KL.

    Args:
        name: title.
        env: results of the environment.
        colors: algorithm -> color index.
        seeds: the seeds, in the order of the results.
    """
    mean_kl = {a: learning_curve(result.curves, "step", "kl").y for a, result in env.algorithms.items()}
    mean_reward = {a: learning_curve(result.curves, "step").y for a, result in env.algorithms.items()}
    if all(value is None for kl in mean_kl.values() for value in kl):
        return None
    ends = {a: [(_last(c.kl), _last(c.reward)) for c in result.curves] for a, result in env.algorithms.items()}
    kls = [value for kl in mean_kl.values() for value in kl] + [kl for end in ends.values() for kl, _ in end]
    rewards = [value for reward in mean_reward.values() for value in reward]
    rewards += [reward for end in ends.values() for _, reward in end]
    panel = Panel(
        x=axis_range(kls, zero=True),
        y=axis_range(rewards),
        x_label="KL to the reference policy, nats per completion",
        y_label=env.curve,
        title=name,
        height=panel_height(len(ends)),
        right=label_margin(ends),
        top=_LABELED_TOP,
    )
    panel.grid()
    panel.reference_line(x=env.kl_level)
    for algorithm in env.algorithms:
        path = zip(mean_kl[algorithm], mean_reward[algorithm], strict=True)
        points = [(kl, reward) for kl, reward in path if kl is not None]
        panel.line([kl for kl, _ in points], [reward for _, reward in points], colors[algorithm])
        for seed, (kl, reward) in zip(seeds, ends[algorithm], strict=True):
            if kl is not None and reward is not None:
                note = f"{algorithm}, seed {seed}: {number(reward)} at {number(kl)} nats"
                panel.dot(kl, reward, colors[algorithm], class_="seed", r=2.6, note=note)
    labels = [(a, colors[a], _last(mean_kl[a]), _last(mean_reward[a])) for a in env.algorithms]
    panel.labels([(a, color, kl, reward) for a, color, kl, reward in labels if kl is not None and reward is not None])
    return panel.svg()


def _selected_pairs(env: EnvResult) -> list[Pair]:
    if len(env.pairs) <= MAX_PAIRS:
        return env.pairs
    best = max(env.algorithms, key=lambda name: env.algorithms[name].mean.value or -math.inf)
    return [pair for pair in env.pairs if best in (pair.a, pair.b)]


def _bands(panel: Panel, series: Sequence[Series]) -> None:
    for s in series:
        panel.band(s, class_="band many" if len(series) >= _PALE_FROM else "band")


def _band_at_steps(profile: Profile) -> tuple[list[float | None], list[float | None]]:
    """Return the band without the points next to which the share is 0 or 1: there all algorithms' bands coincide."""
    shares = profile.share
    inside = [any(0 < share < 1 for share in shares[max(0, i - 1) : i + 2]) for i in range(len(shares))]
    low = [value if keep else None for value, keep in zip(profile.low, inside, strict=True)]
    high = [value if keep else None for value, keep in zip(profile.high, inside, strict=True)]
    return low, high


def _with_bands(lines: tuple[float, float], edges: Sequence[float | None]) -> tuple[float, float]:
    """Return the range of the lines, widened for the bands by at most a quarter, so that the lines stay readable."""
    low, high = lines
    most = (high - low) / 4
    values = [edge for edge in edges if edge is not None]
    return max(min([low, *values]), low - most), min(max([high, *values]), high + most)


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)

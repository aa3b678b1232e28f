"""Plots of a study as PNG files, drawn with matplotlib from results.json alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.compare.analysis.estimates import as_array, floats
from rlalign.compare.output.series import (
    BUDGET_LABELS,
    MIN_SEEDS_FOR_BAND,
    color_indices,
    learning_curve,
    seed_means,
    single_seed_curves,
)
from rlalign.compare.results.schema import EnvResult, Profile, Results
from rlalign.escaping.figure_text import literal
from rlalign.html.svg import NUM_COLORS
from rlalign.storage.atomic import write_atomic

_GRAY = "#8a94a0"
# Okabe and Ito's palette, which color-blind readers can tell apart. On white paper; the report's page.css has its own
# for light and dark screens.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8a94a0")
Colors = Mapping[str, int]


def write_plots(folder: Path, results: Results) -> list[Path]:
    """Write curves-ENV.png, frontier-ENV.png, profile-ENV.png and scores.png and return their paths.

    A study of several environments also has profile.png, over all of them.
    """
    colors = color_indices(results.algorithms)
    paths = []
    for name, env in results.environments.items():
        paint = partial(_learning_curves, env=env, colors=colors)
        paths.append(_save(folder / f"curves-{name}.png", (12.6, 3.2), len(BUDGET_LABELS), paint))
        paint = partial(_frontier, env=env, colors=colors)
        paths.append(_save(folder / f"frontier-{name}.png", (4.8, 3.4), 1, paint))
        profiles = {algorithm: result.profile for algorithm, result in env.algorithms.items()}
        paint = partial(_profiles, profiles=profiles, colors=colors, score="held-out reward")
        paths.append(_save(folder / f"profile-{name}.png", (4.8, 3.4), 1, paint))
    columns = len(results.environments)
    size = (3.2 * columns + 1.2, 1.4 + 0.3 * len(results.algorithms))
    paths.append(_save(folder / "scores.png", size, columns, partial(_scores, results=results, colors=colors)))
    if results.aggregate:
        paint = partial(_profiles, profiles=results.aggregate.profile, colors=colors, score="score")
        paths.append(_save(folder / "profile.png", (4.8, 3.4), 1, paint))
    return paths


def _save(path: Path, size: tuple[float, float], columns: int, paint: Callable[[Sequence[Any]], None]) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        axes = np.atleast_1d(figure.subplots(1, columns))  # subplots returns a bare axis for a single column
        paint(list(axes))
        for axis in axes:
            axis.grid(color=_GRAY, alpha=0.2)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return write_atomic(path, image.getvalue())


def _learning_curves(axes: Sequence[Any], env: EnvResult, colors: Colors) -> None:
    per_seed = single_seed_curves(env)
    for axis, (budget, label) in zip(axes, BUDGET_LABELS.items(), strict=True):
        for name, result in env.algorithms.items():
            color = _color(colors[name])
            mean = learning_curve(result.curves, budget)
            y, low, high = as_array([mean.y, mean.low, mean.high])
            axis.plot(mean.x, y, color=color, label=literal(name), linewidth=1.6)
            axis.fill_between(mean.x, low, high, color=color, alpha=0.15, linewidth=0)
            for curve in per_seed[name]:
                axis.plot(getattr(curve, budget), floats(curve.reward), color=color, linewidth=0.7, alpha=0.6)
        if env.threshold is not None:
            axis.axhline(env.threshold, color=_GRAY, linewidth=0.8, linestyle=":")
        axis.set(xlabel=label)
    has_bands = any(len(result.curves) >= MIN_SEEDS_FOR_BAND for result in env.algorithms.values())
    axes[0].set(ylabel=literal(f"{env.curve} (95 % CI)" if has_bands else env.curve))
    _legend(axes[0])


def _frontier(axes: Sequence[Any], env: EnvResult, colors: Colors) -> None:
    axis = axes[0]
    for name, result in env.algorithms.items():
        for i, curve in enumerate(result.curves):
            label = literal(name) if i == 0 else None  # one entry of the legend per algorithm
            axis.plot(
                floats(curve.kl), floats(curve.reward), color=_color(colors[name]), alpha=0.5, linewidth=1,
                label=label, marker=".", ms=3,
            )  # fmt: skip
    if env.kl_level is not None:
        axis.axvline(env.kl_level, color=_GRAY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="KL to the reference policy (nats per completion)", ylabel=literal(env.curve))
    _legend(axis)


def _profiles(axes: Sequence[Any], profiles: Mapping[str, Profile], colors: Colors, score: str) -> None:
    axis = axes[0]
    for name, profile in profiles.items():
        color = _color(colors[name])
        axis.plot(profile.tau, profile.share, color=color, label=literal(name), linewidth=1.6)
        axis.fill_between(profile.tau, profile.low, profile.high, color=color, alpha=0.12, linewidth=0)
    axis.set(xlabel=f"{score} above", ylabel="share of seeds (95 % CI)", ylim=(-0.02, 1.02))
    _legend(axis)


def _scores(axes: Sequence[Any], results: Results, colors: Colors) -> None:
    for i, (axis, (env_name, env)) in enumerate(zip(axes, results.environments.items(), strict=True)):
        for row, (name, result) in enumerate(env.algorithms.items()):
            color = _color(colors[name])
            seeds = floats(seed_means(result.final))
            axis.plot(seeds, np.full(len(seeds), row), ".", color=color, alpha=0.35)
            mean = result.mean
            if mean.value is not None and mean.low is not None and mean.high is not None:
                error = [[mean.value - mean.low], [mean.high - mean.value]]
                axis.errorbar(mean.value, row, xerr=error, fmt="o", color=color, capsize=3)
        names = [literal(name) for name in env.algorithms]
        axis.set_yticks(range(len(names)), names if i == 0 else [""] * len(names))
        axis.set_ylim(len(names) - 0.5, -0.5)  # the first algorithm at the top
        axis.set(title=literal(env_name), xlabel="held-out reward (95 % CI; dots: seeds)")


def _legend(axis: Any) -> None:
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)


def _color(index: int) -> str:
    return _PALETTE[index % NUM_COLORS]

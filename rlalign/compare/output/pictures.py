"""A study's pictures, drawn from results.json alone: curves, performance profiles, the KL–reward frontier."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.compare.analysis.estimates import as_array
from rlalign.compare.output.html.figures import BAND_FROM, course
from rlalign.compare.results.schema import EnvResult, Profile, Results
from rlalign.storage.atomic import write_atomic

_GREY = "#8a94a0"
# Okabe and Ito's colours: told apart by the colour-blind too
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8a94a0")
_BUDGETS = {"samples": "samples", "tokens": "generated tokens", "updates": "optimizer steps", "seconds": "seconds"}


def draw(folder: Path, results: Results) -> list[Path]:
    """Write curves-ENV.png, frontier-ENV.png, profile-ENV.png and scores.png; returns their paths."""
    paths = []
    for name, env in results.environments.items():
        paths.append(_save(folder / f"curves-{name}.png", (12.6, 3.2), 4, partial(_curves, env=env)))
        paths.append(_save(folder / f"frontier-{name}.png", (4.8, 3.4), 1, partial(_frontier, env=env)))
        profiles = {a: r.profile for a, r in env.algorithms.items()}
        paint = partial(_profiles, profiles=profiles, what="held-out reward")
        paths.append(_save(folder / f"profile-{name}.png", (4.8, 3.4), 1, paint))
    columns = len(results.environments)
    size = (3.2 * columns + 1.2, 1.4 + 0.3 * len(results.algorithms))
    paths.append(_save(folder / "scores.png", size, columns, partial(_scores, results=results)))
    if results.aggregate:
        profiles = results.aggregate.profile
        paths.append(_save(folder / "profile.png", (4.8, 3.4), 1, partial(_profiles, profiles=profiles, what="score")))
    return paths


def _save(path: Path, size: tuple[float, float], columns: int, paint: Callable[[Sequence[Any]], None]) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        axes = np.atleast_1d(figure.subplots(1, columns))
        paint(list(axes))
        for axis in axes:
            axis.grid(color=_GREY, alpha=0.2)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
    return write_atomic(path, drawn.getvalue())


def _curves(axes: Sequence[Any], env: EnvResult) -> None:
    for axis, (budget, words) in zip(axes, _BUDGETS.items(), strict=True):
        for colour, (name, r) in zip(_cycle(), env.algorithms.items(), strict=False):
            mean = course(r.curves, budget)
            y, low, high = as_array([mean.y, mean.low, mean.high])
            axis.plot(mean.x, y, color=colour, label=name, linewidth=1.6)
            axis.fill_between(mean.x, low, high, color=colour, alpha=0.15, linewidth=0)
            for curve in r.curves if len(r.curves) < BAND_FROM else []:
                axis.plot(getattr(curve, budget), as_array([curve.reward])[0], color=colour, linewidth=0.7, alpha=0.6)
        if env.threshold is not None:
            axis.axhline(env.threshold, color=_GREY, linewidth=0.8, linestyle=":")
        axis.set(xlabel=words)
    bands = any(len(r.curves) >= BAND_FROM for r in env.algorithms.values())
    axes[0].set(ylabel=f"{env.curve} (95 % CI)" if bands else env.curve)
    _legend(axes[0])


def _frontier(axes: Sequence[Any], env: EnvResult) -> None:
    axis = axes[0]
    for colour, (name, r) in zip(_cycle(), env.algorithms.items(), strict=False):
        for i, curve in enumerate(r.curves):
            kl, reward = as_array([curve.kl])[0], as_array([curve.reward])[0]
            axis.plot(kl, reward, color=colour, alpha=0.5, linewidth=1, label=None if i else name, marker=".", ms=3)
    if env.kl_level is not None:
        axis.axvline(env.kl_level, color=_GREY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="KL to the start (nats per completion)", ylabel=env.curve)
    _legend(axis)


def _profiles(axes: Sequence[Any], profiles: dict[str, Profile], what: str) -> None:
    axis = axes[0]
    for colour, (name, p) in zip(_cycle(), profiles.items(), strict=False):
        axis.plot(p.tau, p.share, color=colour, label=name, linewidth=1.6)
        axis.fill_between(p.tau, p.low, p.high, color=colour, alpha=0.12, linewidth=0)
    axis.set(xlabel=f"{what} above", ylabel="share of seeds (95 % CI)", ylim=(-0.02, 1.02))
    _legend(axis)


def _scores(axes: Sequence[Any], results: Results) -> None:
    for i, (axis, (name, env)) in enumerate(zip(axes, results.environments.items(), strict=True)):
        for at, (colour, r) in enumerate(zip(_cycle(), env.algorithms.values(), strict=False)):
            seeds = np.nanmean(as_array(r.final), axis=1)
            axis.plot(seeds, np.full(len(seeds), at), ".", color=colour, alpha=0.35)
            if r.mean.value is not None and r.mean.low is not None and r.mean.high is not None:
                error = [[r.mean.value - r.mean.low], [r.mean.high - r.mean.value]]
                axis.errorbar(r.mean.value, at, xerr=error, fmt="o", color=colour, capsize=3)
        axis.set_yticks(range(len(env.algorithms)), list(env.algorithms) if i == 0 else [""] * len(env.algorithms))
        axis.set_ylim(len(env.algorithms) - 0.5, -0.5)
        axis.set(title=name, xlabel="held-out reward (95 % CI; dots: seeds)")


def _legend(axis: Any) -> None:
    axis.figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)


def _cycle() -> list[str]:
    return list(_COLOURS) * 4

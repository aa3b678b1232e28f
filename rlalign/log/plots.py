"""Pictures of a run, drawn from its files alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.log.trackers import read_metrics

_INK, _GREY, _BLUE = "#1f2933", "#8a94a0", "#1f6fb2"


def plot_run(folder: Path) -> Path:
    """Draw report/reward.png: reward with its 95 % CI, the components, and the KL to the start or the length."""
    return plot_runs([folder], folder / "report" / "reward.png")


def draw(folder: Path) -> None:
    """`plot_run` that cannot end a run: a picture that fails (a full disk, a broken font cache) is only warned of."""
    try:
        plot_run(folder)
    except Exception as error:
        warnings.warn(f"no picture of '{folder}': {error}; rlalign plot {folder} draws it later", stacklevel=2)


def plot_runs(folders: Sequence[Path], path: Path) -> Path:
    """Draw the reward and KL curves of one or several runs into one picture.

    Raises UserError for a format that matplotlib does not write, a run given twice and a run without metrics.
    """
    import matplotlib
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise UserError(f"'{path}' has no suffix of a picture: use one of {', '.join(sorted(formats))}")
    runs = {f: [r for r in read_metrics(f) if r.get("reward/mean") is not None] for f in folders}
    if len({f.resolve() for f in folders}) < len(folders):
        raise UserError("a run is named twice: name each once")
    if empty := [f for f, rows in runs.items() if not rows]:
        raise UserError(f"'{empty[0]}' has no metrics to draw: no step of it ended with a reward")
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        # Figure, not pyplot: no global state, so that a notebook's own backend is left alone
        figure = Figure(figsize=(8.4, 3.3), layout="constrained", dpi=150)
        reward, beside = figure.subplots(1, 2, width_ratios=[1.6, 1])
        colours: Any = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]  # listed colormaps have it
        has_kl = any("rollout/kl" in row for rows in runs.values() for row in rows)
        for i, (folder, rows) in enumerate(runs.items()):
            colour = _BLUE if len(folders) == 1 else colours[i % 10]
            _curve(reward, rows, "reward/mean", colour, folder.name if len(folders) > 1 else "reward", "reward/ci95")
            if len(folders) == 1:
                _components(reward, rows)
            _curve(beside, rows, "rollout/kl" if has_kl else "rollout/length", colour, None)
        reward.set(xlabel="step", ylabel="reward (95 % CI over samples)", title="Reward")
        if has_kl:
            beside.set(xlabel="step", ylabel="nats per completion", title="KL to the start")
        else:
            beside.set(xlabel="step", ylabel="tokens per completion", title="Length")
        if reward.get_legend_handles_labels()[0]:
            reward.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def plot_comparison(comparison: Mapping[str, Any], path: Path) -> Path:
    """Draw before and after of a `Comparison.to_dict`: a panel a metric, the difference's 95 % CI at what is after."""
    import matplotlib
    from matplotlib.figure import Figure

    metrics = comparison["metrics"]
    columns = min(4, max(1, len(metrics)))
    rows = -(-len(metrics) // columns)
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.1 * columns, 1.9 * rows), layout="constrained", dpi=150)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, row) in zip(axes, metrics.items(), strict=False):
            before, after, d = row["before"], row["after"], row["difference"]
            known = None not in (before, after)
            axis.plot([0, 1], [before, after] if known else [np.nan, np.nan], color=_BLUE, marker="o")
            if known and None not in (d["low"], d["high"]):
                axis.errorbar([1], [after], [[d["mean"] - d["low"]], [d["high"] - d["mean"]]], color=_BLUE, capsize=3)
            axis.set(xticks=[0, 1], xticklabels=["before", "after"], xlim=(-0.3, 1.3), title=name)
            axis.grid(axis="y", color=_GREY, alpha=0.2)
            axis.tick_params(colors=_INK)
        for axis in axes[len(metrics) :]:
            axis.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def _components(axis: Any, rows: Sequence[dict[str, float]]) -> None:
    own = {"reward/mean", "reward/ci95", "reward/std", "reward/invalid"}
    names = [n for n in rows[0] if n.startswith("reward/") and n not in own and not n.endswith("/weight")]
    for name, style in zip(names, ("--", ":", "-.", (0, (1, 3)), (0, (5, 5))), strict=False):
        _curve(axis, rows, name, _GREY, name.removeprefix("reward/"), style=style)


def _curve(
    axis: Any,
    rows: Sequence[dict[str, Any]],
    key: str,
    colour: Any,
    label: str | None,
    band: str = "",
    style: Any = "-",
) -> None:
    # None, where a step has no value, becomes NaN: a gap in the line rather than a zero
    x = np.array([r["step"] for r in rows])
    y = np.array([r.get(key) for r in rows], dtype=float)
    axis.plot(x, y, color=colour, label=label, linestyle=style, linewidth=1.8 if style == "-" else 1.1)
    if band:
        half = np.array([r.get(band) for r in rows], dtype=float)
        axis.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
    axis.grid(axis="y", color=_GREY, alpha=0.2)
    axis.tick_params(colors=_INK)

"""Plots of runs as image files, drawn with matplotlib from the files in the run folders."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from rlalign.errors import UserError
from rlalign.escaping.figure_text import literal
from rlalign.log.metrics import REWARD_BY_ENVIRONMENT, REWARD_STATISTICS
from rlalign.storage.jsonl import read_metrics

_INK, _GRAY, _BLUE = "#1f2933", "#8a94a0", "#1f6fb2"
# line styles of the components: no color, as the color stands for the run
_COMPONENT_STYLES = ("--", ":", "-.", (0, (1, 3)), (0, (5, 5)))


P = ParamSpec("P")


def _frees_its_figure(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Return a function that draws, then frees the figure: a cycle of objects, about 0.5 MiB, that Python frees late.

    The collection costs 0.3 s over all objects of a process, so those of before the drawing are frozen meanwhile.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Path:
        frozen = gc.get_freeze_count()  # by the user's program, which must stay so
        if not frozen:
            gc.freeze()
        try:
            return draw(*args, **kwargs)
        finally:
            gc.collect()
            if not frozen:
                gc.unfreeze()

    return drawn


def plot_run(folder: Path) -> Path:
    """Draw report/reward.png of a run folder and return its path.

    It shows the reward with its 95 % CI, the reward components or the rewards on the environments of a mixture, and the
    KL to the reference policy or the length; of a run on preference data, the accuracy and the margin on the pairs.
    """
    return plot_runs([folder], folder / "report" / "reward.png")


def draw(folder: Path) -> None:
    """Draw report/reward.png like `plot_run`, but only warn of an error, such as a full disk or a broken font cache."""
    try:
        plot_run(folder)
    except Exception as error:
        warnings.warn(f"no plot of '{folder}': {error}; use rlalign plot {folder} to draw it later", stacklevel=2)


def no_curve(folder: Path) -> str:
    """Return the message for a run without a step that can be drawn."""
    return f"'{folder}': expected metrics, got no step with a reward or a loss; train the run first"


@dataclass(frozen=True, slots=True)
class _Curve:
    """What the first panel shows, and the second one if there is no KL.

    Attributes:
        key: metric of the first panel; runs without it are not of this kind.
        label: name of the curve.
        axis: label of the axis.
        title: of the panel.
        band: metric of the half-width of the interval; empty: none.
        second: metric of the second panel.
        second_axis: label of its axis.
        second_title: its title.
    """

    key: str
    label: str
    axis: str
    title: str
    band: str
    second: str
    second_axis: str
    second_title: str


_CURVES = (
    _Curve("reward/mean", "reward", "reward (95 % CI over samples)", "Reward", "reward/ci95", "rollout/length",
           "tokens per completion", "Length"),
    _Curve("preference/accuracy", "accuracy on the step's pairs", "share of pairs", "Accuracy on preferences", "",
           "preference/margin", "implicit reward, chosen − rejected", "Margin"),
    _Curve("train/loss", "loss", "nats per token", "Loss on recorded data", "", "train/grad_norm", "Euclidean norm",
           "Gradient"),
)  # fmt: skip
"""Kinds of runs, in the order in which they are tried: on samples, on preferences, on demonstrations."""
DRAWABLE = tuple(curve.key for curve in _CURVES)
"""Metrics one of which a run needs to be drawn."""


@_frees_its_figure
def plot_runs(folders: Sequence[Path], path: Path) -> Path:
    """Draw the reward and KL curves of one or several runs into one image and return its path.

    Runs on recorded data have no rewards of samples; they are drawn by their pairs, or by their loss.

    Raises:
        UserError: for an image format that matplotlib does not write, for a run that is passed twice, for a run
            without metrics, and for runs on samples beside runs on recorded data.
    """
    import matplotlib
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise UserError(f"'{path}': expected the suffix of an image format; use one of {', '.join(sorted(formats))}")
    curve, runs = _curve_of(folders)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("expected different runs, got the same run twice; pass each run once")
    empty = [folder for folder, rows in runs.items() if not rows]
    if empty and any(_rows_with(empty[0], other.key) for other in _CURVES[1:]):
        raise UserError(f"'{empty[0]}' is a run on recorded data, without {curve.label}; plot it alone")
    if empty:
        raise UserError(no_curve(empty[0]))
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        # Figure, not pyplot: pyplot has global state and would change a notebook's backend
        figure = Figure(figsize=(8.4, 3.3), layout="constrained", dpi=150)
        reward_axis, second_axis = figure.subplots(1, 2, width_ratios=[1.6, 1])
        palette: Any = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]  # listed colormaps have it
        has_kl = any("rollout/kl" in row for rows in runs.values() for row in rows)
        second = "rollout/kl" if has_kl else curve.second
        single = len(folders) == 1
        for i, (folder, rows) in enumerate(runs.items()):
            color = _BLUE if single else palette[i % 10]
            label = curve.label if single else literal(folder.name)
            _curve(reward_axis, rows, curve.key, color, label, band=curve.band)
            if single:
                _components(reward_axis, rows)
            _curve(second_axis, rows, second, color, None)
        reward_axis.set(xlabel="step", ylabel=curve.axis, title=curve.title)
        if has_kl:
            second_axis.set(xlabel="step", ylabel="nats per completion", title="KL to the reference policy")
        else:
            second_axis.set(xlabel="step", ylabel=curve.second_axis, title=curve.second_title)
        if reward_axis.get_legend_handles_labels()[0]:
            reward_axis.legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def _curve_of(folders: Sequence[Path]) -> tuple[_Curve, dict[Path, list[dict[str, Any]]]]:
    """Return the first kind that one of the runs is of, and the rows of each run that have its metric."""
    for curve in _CURVES:
        runs = {folder: _rows_with(folder, curve.key) for folder in folders}
        if any(runs.values()):
            break
    return curve, runs


@_frees_its_figure
def plot_comparison(comparison: Mapping[str, Any], path: Path) -> Path:
    """Draw before and after of a `Comparison.to_dict`, one panel per metric, and return the path of the image.

    The error bar at "after" is the 95 % CI of the difference.
    """
    import matplotlib
    from matplotlib.figure import Figure

    metrics = comparison["metrics"]
    columns = min(4, max(1, len(metrics)))
    rows = -(-len(metrics) // columns)  # division rounded up
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.1 * columns, 1.9 * rows), layout="constrained", dpi=150)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, metric) in zip(axes, metrics.items(), strict=False):
            before = metric["before"]
            after = metric["after"]
            difference = metric["difference"]
            measured = None not in (before, after)
            axis.plot([0, 1], [before, after] if measured else [np.nan, np.nan], color=_BLUE, marker="o")
            if measured and None not in (difference["low"], difference["high"]):
                below = difference["mean"] - difference["low"]
                above = difference["high"] - difference["mean"]
                axis.errorbar([1], [after], [[below], [above]], color=_BLUE, capsize=3)
            axis.set(xticks=[0, 1], xticklabels=["before", "after"], xlim=(-0.3, 1.3), title=literal(name))
            _style(axis)
        for axis in axes[len(metrics) :]:
            axis.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def _rows_with(folder: Path, key: str) -> list[dict[str, float]]:
    return [row for row in read_metrics(folder) if row.get(key) is not None]


def _components(axis: Any, rows: Sequence[dict[str, float]]) -> None:
    # an environment of a mixture may have no sample in the first step
    all_names = dict.fromkeys(name for row in rows for name in row)
    # the components of several environments say less than the reward on each
    labels = {name: name.split("/")[1] for name in all_names if REWARD_BY_ENVIRONMENT.fullmatch(name)} or {
        name: name.removeprefix("reward/")
        for name in rows[0]
        # a weight has another scale than a reward
        if name.startswith("reward/") and name not in REWARD_STATISTICS and not name.endswith("/weight")
    }
    # strict=False: components beyond the number of styles are not drawn
    for (name, label), style in zip(labels.items(), _COMPONENT_STYLES, strict=False):
        _curve(axis, rows, name, _GRAY, literal(label), style=style)


def _curve(
    axis: Any,
    rows: Sequence[dict[str, Any]],
    key: str,
    color: Any,
    label: str | None,
    band: str = "",
    style: Any = "-",
) -> None:
    steps = np.array([row["step"] for row in rows])
    # dtype=float turns None, a step without a value, into NaN: a gap in the line rather than a zero
    values = np.array([row.get(key) for row in rows], dtype=float)
    axis.plot(steps, values, color=color, label=label, linestyle=style, linewidth=1.8 if style == "-" else 1.1)
    if band:
        half_width = np.array([row.get(band) for row in rows], dtype=float)
        axis.fill_between(steps, values - half_width, values + half_width, color=color, alpha=0.15, linewidth=0)
    _style(axis)


def _style(axis: Any) -> None:
    axis.grid(axis="y", color=_GRAY, alpha=0.2)
    axis.tick_params(colors=_INK)

"""The results of `compare_forms` as a table in Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlalign.escaping.figure_text import literal
from rlalign.evaluation.signed_bounds import signed_bounds
from rlalign.storage.atomic import write_atomic

_LEAST = 1e-9
"""Nats. A smaller KL is rounding of float32, and is drawn here."""
_BLUE, _GRAY = "#1f6fb2", "#8a94a0"


_HEADER = (
    "form", "reward", "difference (95 % CI)", "KL per token, exact", "KL per completion, sampled (95 % CI)",
    "MB on disk", "MB in memory", "tokens/s, 1 row", "64 rows",
)  # fmt: skip


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of costs, one row per form that was measured.

    Args:
        results: of `compare_forms`.
    """
    return list(_HEADER), [[name, *_cells(row)] for name, row in _measured(results).items()]


def component_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of the components of the reward, each with its paired difference.

    Args:
        results: of `compare_forms`.
    """
    names = [name for name in results["forms"]["policy"]["metrics"] if name != "reward"]
    rows = []
    for form, row in _measured(results).items():
        metrics = [row["metrics"].get(name, {}) for name in names]
        rows.append(
            [form, *(f"{_number(m.get('mean'))} {_interval(m.get('difference'))}".rstrip(" -") for m in metrics)]
        )
    return ["form", *names], rows


def _measured(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows with figures."""
    return {name: row for name, row in results["forms"].items() if "unavailable" not in row}


def _cells(row: Mapping[str, Any]) -> list[str]:
    reward = row["metrics"].get("reward", {})
    cells = [_number(reward.get("mean")), _interval(reward.get("difference"))]
    if "bytes" not in row:
        return [*cells, *["-"] * (len(_HEADER) - 3)]
    kl = row["kl"]
    sampled = f"{kl['mean']:.2g} {_bounds(kl)}" if kl["mean"] is not None else _infinite(kl)
    cells += [f"{row['fidelity']['kl']:.2g}", sampled]
    cells += [f"{row['bytes'] / 1e6:.1f}", f"{row['memory'] / 1e6:.0f}"]
    return [*cells, f"{row['speed']['1']:.0f}", f"{row['speed']['64']:.0f}"]


def _infinite(kl: Mapping[str, Any]) -> str:
    """Return a KL without a finite mean in words."""
    if "infinite" not in kl:
        return "-"
    number = kl["infinite"]
    return f"infinite: {number} completion{'s' * (number > 1)} that the policy never gives"


def _interval(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["mean"] is None:
        return "-"
    return f"{difference['mean']:+.3f} {_bounds(difference)}"


def _bounds(interval: Mapping[str, Any]) -> str:
    if interval["low"] is None:
        return ""
    if interval["low"] == interval["high"]:
        return "(the same on each)"
    return signed_bounds(interval["low"], interval["high"])


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def write_markdown(results: Mapping[str, Any], path: Path) -> Path:
    """Write the table and the forms that were not measured, with the reasons, and return the path."""
    lines = _markdown(*table(results))
    if len(results["forms"]["policy"]["metrics"]) > 1:
        lines += ["", *_markdown(*component_table(results))]
    missing = {name: row["unavailable"] for name, row in results["forms"].items() if "unavailable" in row}
    lines += [""] * bool(missing) + [f"- {name}: not measured: {reason}" for name, reason in missing.items()]
    outside = {name: row["excess"] for name, row in results["forms"].items() if row.get("excess")}
    lines += [""] * bool(outside) + [f"- {name}: outside of its bound: {excess}" for name, excess in outside.items()]
    return write_atomic(path, "\n".join(lines) + "\n")


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """Draw reward, KL, size and speed of each form, and return the path of the picture."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = {name: row for name, row in results["forms"].items() if "bytes" in row}
    names = list(rows)
    full = results["forms"]["policy"]["metrics"].get("reward", {}).get("mean")
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 0.9 + 0.28 * len(names)), layout="constrained", dpi=150)
        axes = figure.subplots(1, 4, sharey=True, squeeze=False)[0]
        for i, row in enumerate(rows.values()):
            difference = row["metrics"].get("reward", {}).get("difference")
            _point(axes[0], i, difference, full or 0.0)
            axes[1].plot([max(row["fidelity"]["kl"], _LEAST)], [i], "o", color=_BLUE, markersize=4)
        places = range(len(names))
        axes[2].barh(places, [row["bytes"] / 1e6 for row in rows.values()], color=_BLUE)
        axes[3].barh(places, [row["speed"]["64"] for row in rows.values()], color=_BLUE)
        if full is not None:
            axes[0].axvline(full, color=_GRAY, linewidth=0.8, linestyle="--")
        axes[1].set_xscale("log")
        titles = (
            "reward\n(dashed: full policy)",
            "exact KL(policy ‖ form),\nnats per token",
            "MB on disk",
            "tokens/s at 64 rows",
        )
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title, fontsize=8)
            axis.tick_params(length=2)
        axes[0].set_yticks(list(places), [literal(name) for name in names])
        axes[0].invert_yaxis()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def _point(axis: Any, place: int, interval: Mapping[str, Any] | None, origin: float) -> None:
    """Draw a mean and its 95 % interval, shifted by an origin."""
    if interval is None or interval["mean"] is None:
        return
    axis.plot([origin + interval["mean"]], [place], "o", color=_BLUE, markersize=4)
    if interval["low"] is not None:
        axis.plot([origin + interval["low"], origin + interval["high"]], [place, place], color=_BLUE, linewidth=1.2)

"""Tables of algorithms: the axes of each, and the differences of two."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rlalign.algorithms import (
    OFFLINE,
    OUTSIDE,
    UNTRAINED,
    Algorithm,
    algorithm,
    diff,
    recorded_presets,
    sampling_presets,
    teacher_presets,
)
from rlalign.cli.console import console as make_console
from rlalign.errors import UserError


def show(pair: Sequence[str]) -> int:
    """Print the axes of all algorithms, or the axes on which a pair of algorithms differs; return the exit status."""
    console = make_console()
    if not pair:
        console.print(_axes_table())
        console.print(_recorded_table())
        console.print(_teacher_table())
        console.print(f"TRL's trainers with the same objective: {', '.join(OUTSIDE)} (docs/concepts/trl.md)")
        console.print(f"without training: {', '.join(UNTRAINED)} (docs/concepts/overoptimization.md)")
        console.print(f"TRL's trainers on recorded data, --data FILE: {', '.join(OFFLINE)}")
        console.print("the proven properties of each gradient: rlalign oracle, docs/reference/algorithms.md")
        return 0
    if len(pair) != 2:
        raise UserError(
            f"--diff: expected two algorithms, got {len(pair)}; use rlalign list algorithms --diff grpo dapo"
        )
    console.print(_difference_table(algorithm(pair[0]), algorithm(pair[1])))
    return 0


def _difference_table(a: Algorithm, b: Algorithm) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in ("axis", a.name, b.name):
        table.add_column(name, style="bold" if name == "axis" else "")
    # group_size and epochs are settings of the rollout and the learner, not axes of the objective
    settings = {"group_size": (a.group_size, b.group_size), "epochs": (a.epochs, b.epochs)}
    for axis, (left, right) in {**diff(a.objective, b.objective), **settings}.items():
        if left != right:
            table.add_row(axis, str(left), str(right))
    return table


def _preset_table(title: str, *columns: str) -> Table:
    """Return a table without rows: the name of each preset, its paper, and further columns."""
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 1))
    table.add_column("algorithm", style="bold", no_wrap=True)
    for name in ("arXiv", *columns):
        table.add_column(name)
    return table


def _axes_table() -> Table:
    table = _preset_table("", "baseline", "scale", "credit", "ratio", "trust", "aggregation", "kl")
    for name in sampling_presets():
        item = algorithm(name)
        o = item.objective
        kl = "none" if o.kl.where == "none" else f"{o.kl.where} {o.kl.estimator}"
        axes = (o.baseline, o.scale, o.credit.kind, o.ratio, o.trust.kind, o.aggregation, kl)
        table.add_row(name, item.arxiv or item.paper, *("–" if axis == "none" else axis for axis in axes))
    return table


def _recorded_table() -> Table:
    table = _preset_table("on recorded data", "data", "loss", "reference", "aggregation")
    for name in recorded_presets():
        item = algorithm(name)
        o = item.objective
        loss = o.loss if o.is_preference else "-log pi"
        reference = f"beta {o.kl.coef:g}" if o.needs_reference else "–"
        table.add_row(name, item.arxiv or item.paper, item.data, loss, reference, o.aggregation)
    return table


def _teacher_table() -> Table:
    table = _preset_table("from a teacher, --teacher", "samples of", "minimizes", "credit", "aggregation")
    for name in teacher_presets():
        item = algorithm(name)
        o = item.objective
        imitates = item.teacher == "samples"
        divergence = "KL(teacher‖pi)" if imitates else "KL(pi‖teacher)"
        source = item.arxiv or item.paper
        table.add_row(name, source, "teacher" if imitates else "policy", divergence, o.credit.kind, o.aggregation)
    return table

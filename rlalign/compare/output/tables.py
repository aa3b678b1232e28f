"""A study's findings in the terminal and as a flat file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlalign.compare.analysis.estimates import as_array
from rlalign.compare.analysis.intervals import LEVEL
from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.html.numbers import level
from rlalign.compare.results.schema import BUDGETS, EnvResult, Estimate, Pair, Results, ToThreshold
from rlalign.storage.atomic import write_whole


def show(console: Console, results: Results) -> None:
    """Verdict first, then a table of algorithms and one of pairs for each environment, then what differs."""
    for sentence in results.verdict:
        console.print(f"[bold]{escape(sentence)}[/]", soft_wrap=True)
    for warning in results.warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    for name, env in results.environments.items():
        console.print()
        console.print(_algorithms(name, env, len(results.seeds)))
        console.print(_course(name, env))
        if env.pairs:
            console.print(_pairs(name, env))
    if results.aggregate:
        console.print()
        console.print(_aggregate(results))
    if results.differences:
        console.print()
        console.print(_differences(results))
    for failure in results.failures:
        where = f"{failure.env}/{failure.algorithm} seed {failure.seed}"
        console.print(f"[red]failed[/] {escape(where)}: {escape(failure.reason)}", soft_wrap=True)


def _algorithms(name: str, env: EnvResult, seeds: int) -> Table:
    size = f"{count(seeds, 'seed')} × {len(env.prompts)} prompts"
    title = f"{name}: held-out reward after {env.steps} steps, {size}, 95 % CI"
    failed = any(any(r.failed) for r in env.algorithms.values())
    one = next(iter(env.algorithms.values()))
    few = one.median.low is not None and one.median.level < LEVEL
    names = ["", "mean", "IQM", f"median ({level(one.median)})" if few else "median", "gain"]
    table = _table(title, [*names, *(["failed"] if failed else [])])
    for algorithm, r in env.algorithms.items():
        cells = [_ci(r.mean), _ci(r.iqm), _ci(r.median), _ci(r.gain, sign=True)]
        table.add_row(escape(algorithm), *cells, *([str(sum(r.failed))] if failed else []))
    return table


def _course(name: str, env: EnvResult) -> Table:
    level = [] if env.threshold is None else [f"samples to {env.threshold:.3f}", "got there"]
    columns = ["", "mean height of the curve", *level, "sd seeds", "sd prompts", "sd rest"]
    table = _table(f"{name}: on the way, and where the noise comes from", columns)
    for algorithm, r in env.algorithms.items():
        cells = [_ci(r.auc["samples"])]
        if level:
            reach = r.to_threshold["samples"]
            cells += [_to(reach), f"{sum(reach.reached)} of {len(reach.reached)}"]
        cells += [
            "–" if x is None else _fixed(x, sign=False) for x in (r.spread.seeds, r.spread.prompts, r.spread.rest)
        ]
        table.add_row(escape(algorithm), *cells)
    return table


def _pairs(name: str, env: EnvResult) -> Table:
    columns = ["", "difference", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "ended higher"]
    table = _table(f"{name}: pairs, seed against seed", columns)
    for pair in env.pairs:
        table.add_row(
            f"{escape(pair.a)} − {escape(pair.b)}",
            _ci(pair.difference, sign=True),
            _number(pair.p_holm),
            _ci(pair.probability_of_improvement),
            "–" if pair.at_equal_kl is None else _ci(pair.at_equal_kl, sign=True),
            _number(pair.detectable),
            _named(pair),
        )
    return table


def _named(pair: Pair) -> str:
    said, colour = escape(pair.outcome), "red" if pair.failed else "bold green" if pair.winner else ""
    return f"[{colour}]{said}[/]" if colour else said or "–"


def _aggregate(results: Results) -> Table:
    assert results.aggregate is not None
    title = "all environments, each rescaled: 0 its start, 1 the best seed"
    table = _table(title, ["", "mean", "IQM", "median"])
    for name in results.algorithms:
        a = results.aggregate
        table.add_row(escape(name), _ci(a.mean[name]), _ci(a.iqm[name]), _ci(a.median[name]))
    return table


def _differences(results: Results) -> Table:
    table = _table("what differs between them", ["setting", *(escape(a) for a in results.algorithms)])
    for d in results.differences:
        table.add_row(escape(d.key), *(escape(d.values.get(a, "–")) for a in results.algorithms))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _ci(e: Estimate, *, sign: bool = False) -> str:
    if e.value is None:
        return "–"
    value, low, high = (None if x is None else _fixed(x, sign) for x in (e.value, e.low, e.high))
    return rf"{value} \[{'–' if low is None or high is None else f'{low}, {high}'}]"


def _fixed(x: float, sign: bool) -> str:
    x = round(x, 3) + 0.0  # so that there is no -0.000
    return f"{x:+.3f}" if sign else f"{x:.3f}"


def _number(x: float | None) -> str:
    return "–" if x is None else "< 0.001" if 0 <= x < 0.001 else f"{x:.3f}"


def _to(reach: ToThreshold) -> str:
    """The Kaplan-Meier median; where fewer than half of the seeds got there, that it is above what all had."""
    if reach.median is not None:
        return _count(reach.median)
    return f"> {_count(min(s for s, got in zip(reach.spent, reach.reached, strict=True) if not got))}"


def _count(x: float) -> str:
    return f"{x:,.0f}".replace(",", " ")


def write_csv(folder: Path, results: Results) -> Path:
    """results.csv: a row for each cell."""
    rows = list(_rows(results))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return write_whole(folder / "results.csv", file.getvalue())


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    for name, env in results.environments.items():
        for algorithm, r in env.algorithms.items():
            final, start = as_array(r.final), as_array(r.start)
            for i, seed in enumerate(results.seeds):
                row: dict[str, Any] = {"env": name, "algorithm": algorithm, "seed": seed, "failed": r.failed[i]}
                row |= {"start": np.nanmean(start[i]), "reward": np.nanmean(final[i])}
                row |= {f"auc_{b}": r.auc_seeds[b][i] for b in BUDGETS}
                for budget in BUDGETS:
                    reach = r.to_threshold.get(budget)
                    got = reach is not None and reach.reached[i]
                    row[f"{budget}_to_threshold"] = reach.spent[i] if got and reach is not None else ""
                yield row

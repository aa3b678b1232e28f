"""The results of a study as tables in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rlalign.compare.analysis.intervals import LEVEL
from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.deviations import CLIPPED, CLIPPED_NOTE
from rlalign.compare.results.schema import EnvResult, Estimate, Pair, Results, ToThreshold
from rlalign.escaping.console import PlainConsole, line
from rlalign.evaluation.signed_bounds import signed_bounds
from rlalign.html.numbers import level

_MISSING = "–"


def print_results(console: PlainConsole, results: Results) -> None:
    """Print the verdict, the warnings, the tables of each environment, and the settings that differ."""
    for sentence in results.verdict:
        console.print(line((sentence, "bold")), soft_wrap=True)
    for warning in results.warnings:
        console.print(line((warning, "yellow")), soft_wrap=True)
    for name, env in results.environments.items():
        console.print()
        console.print(final_rewards_table(name, env, len(results.seeds)))
        console.print(learning_table(name, env))
        if env.pairs:
            console.print(_pairs(name, env))
    if results.aggregate:
        console.print()
        console.print(_aggregate(results))
    if results.differences:
        console.print()
        console.print(_differences(results))
    for failure in results.failures:
        cell = f"{failure.env}/{failure.algorithm} seed {failure.seed}"
        console.print(line(("failed", "red"), f" {cell}: {failure.reason}"), soft_wrap=True)


def final_rewards_table(name: str, env: EnvResult, seeds: int) -> Table:
    """Return the table of final rewards and gains, one row per algorithm."""
    size = f"{count(seeds, 'seed')} × {len(env.prompts)} prompts"
    title = f"{name}: held-out reward after {env.steps} steps, {size}, 95 % CI"
    any_failed = any(any(result.failed) for result in env.algorithms.values())
    median = next(iter(env.algorithms.values())).median
    # order statistics of few seeds cover less than 95 %; the heading then gives the level
    low_level = median.low is not None and median.level < LEVEL
    columns = ["", "mean", "IQM", f"median ({level(median)})" if low_level else "median", "gain"]
    table = _table(title, [*columns, *(["failed"] if any_failed else [])])
    for algorithm, result in env.algorithms.items():
        cells = [_ci(result.mean), _ci(result.iqm), _ci(result.median), _ci(result.gain, sign=True)]
        table.add_row(algorithm, *cells, *([str(sum(result.failed))] if any_failed else []))
    return table


def learning_table(name: str, env: EnvResult) -> Table:
    """Return the table of learning speed and of the standard deviations of the reward, one row per algorithm."""
    has_threshold = env.threshold is not None
    threshold = [f"samples to {env.threshold:.3f}", "reached by"] if has_threshold else []
    columns = ["", "normalized AUC", *threshold, "SD seeds", "SD prompts", "SD residual"]
    table = _table(f"{name}: area under the learning curve, and sources of variance", columns)
    for algorithm, result in env.algorithms.items():
        cells = [_ci(result.auc["samples"])]
        if has_threshold:
            to_threshold = result.to_threshold["samples"]
            reached = to_threshold.reached
            cells += [_budget_to(to_threshold), f"{sum(reached)} of {len(reached)}"]
        spread = (result.spread.seeds, result.spread.prompts, result.spread.rest)
        cells += [_deviation(value) for value in spread]
        table.add_row(algorithm, *cells)
        if CLIPPED in cells:
            table.caption, table.caption_justify = CLIPPED_NOTE, "left"
    return table


def _deviation(value: float | None) -> str:
    if value is None:
        return _MISSING
    return CLIPPED if value == 0 else _fixed(value, sign=False)


def _pairs(name: str, env: EnvResult) -> Table:
    columns = ["", "difference", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "winner"]
    table = _table(f"{name}: differences, paired by seed", columns)
    for pair in env.pairs:
        table.add_row(
            f"{pair.a} − {pair.b}",
            _ci(pair.difference, sign=True),
            _number(pair.p_holm),
            _ci(pair.probability_of_improvement),
            _MISSING if pair.at_equal_kl is None else _ci(pair.at_equal_kl, sign=True),
            _number(pair.detectable),
            _outcome(pair),
        )
    return table


def _outcome(pair: Pair) -> Text:
    if pair.failed:
        return line((pair.outcome, "red"))
    if pair.winner:
        return line((pair.outcome, "bold green"))
    return line(pair.outcome or _MISSING)


def _aggregate(results: Results) -> Table:
    aggregate = results.aggregate
    assert aggregate is not None
    title = "all environments, each rescaled: 0 is the initial policy, 1 the best seed"
    table = _table(title, ["", "mean", "IQM", "median"])
    for name in results.algorithms:
        table.add_row(name, _ci(aggregate.mean[name]), _ci(aggregate.iqm[name]), _ci(aggregate.median[name]))
    return table


def _differences(results: Results) -> Table:
    table = _table("settings that differ", ["setting", *(name for name in results.algorithms)])
    for difference in results.differences:
        values = [difference.values.get(name, _MISSING) for name in results.algorithms]
        table.add_row(difference.key, *(value for value in values))
    return table


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _ci(estimate: Estimate, *, sign: bool = False) -> str:
    if estimate.value is None:
        return _MISSING
    value = _fixed(estimate.value, sign)
    if estimate.low is None or estimate.high is None:
        return f"{value} [{_MISSING}]"
    if sign:
        return f"{value} {signed_bounds(estimate.low, estimate.high)}"
    return f"{value} [{_fixed(estimate.low, sign)}, {_fixed(estimate.high, sign)}]"


def _fixed(value: float, sign: bool) -> str:
    rounded = round(value, 3) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:+.3f}" if sign else f"{rounded:.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return _MISSING
    return "< 0.001" if 0 <= value < 0.001 else f"{value:.3f}"


def _budget_to(to_threshold: ToThreshold) -> str:
    """Return the Kaplan-Meier median, or a lower bound if fewer than half of the seeds reached the threshold."""
    if to_threshold.median is not None:
        return _count(to_threshold.median)
    seeds = zip(to_threshold.spent, to_threshold.reached, strict=True)
    return f"> {_count(min(spent for spent, reached in seeds if not reached))}"


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")

"""Tables of a study in the terminal, and the rows of results.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rlalign.compare.analysis.environment import analyze_environment
from rlalign.compare.output.html.table_sections import cost, final_rewards
from rlalign.compare.output.results_csv import csv_rows
from rlalign.compare.output.tables import final_rewards_table, learning_table
from rlalign.compare.results.results_json import read_results
from rlalign.html.components import estimate
from rlalign.html.numbers import level

DATA = Path(__file__).parents[2] / "data"


def test_few_seeds_have_no_interval_for_iqm_and_median(decided: Any, noisy: Any) -> None:
    """At five seeds the median has an interval, with its own confidence level."""
    for seeds, coverage in ((4, ""), (5, "93.8 % CI"), (6, "95 % CI")):
        env = decided({"a": noisy(0.5, seeds), "b": noisy(0.6, seeds, 1)})["e"]
        result = env.algorithms["a"]
        assert (result.iqm.low is None, result.median.low is None) == (seeds < 5, seeds < 5)
        assert result.mean.low is not None
        assert level(result.median) == coverage
        assert ("[–]" in estimate(result.iqm)) == (seeds < 5)
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - open as long as the console
        console.print(final_rewards_table("e", env, seeds))
        printed = console.export_text()
        assert ("[–]" in printed) == (seeds < 5)
        assert ("median (93.8 % CI)" in printed) == (seeds == 5)


def test_a_threshold_that_no_seed_reached_is_shown_as_more_than_the_budget(make_record: Any, noisy: Any) -> None:
    grid = {a: {s: make_record(a, s, noisy(0.5, 6, i)[s]) for s in range(6)} for i, a in enumerate("ab")}
    env = analyze_environment(grid, threshold=2.0)
    never = env.algorithms["a"].to_threshold["samples"]
    assert cost(never).startswith("&gt; 100.0")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - open as long as the console
    console.print(learning_table("e", env))
    assert "> 100" in console.export_text()
    reached = analyze_environment(grid, threshold=0.3).algorithms["a"].to_threshold["samples"]
    assert cost(reached).startswith("100.0")


def test_a_missing_reward_leaves_the_mean_of_its_seed_finite() -> None:
    results = read_results(DATA)
    name, env = next(iter(results.environments.items()))
    algorithm, result = next(iter(env.algorithms.items()))
    hole = replace(result, final=[[None, *row[1:]] for row in result.final])
    changed = replace(results, environments={name: replace(env, algorithms={algorithm: hole})})
    rewards = [row["reward"] for row in csv_rows(changed)]
    assert rewards == [pytest.approx(np.mean([v for v in row[1:] if v is not None])) for row in result.final]


def test_a_standard_deviation_whose_estimate_is_negative_is_marked() -> None:
    """0.000 would say that the seeds are equal; the residual is only larger than what they differ by."""
    results = read_results(DATA)
    name, env = next(iter(results.environments.items()))
    algorithm, result = next(iter(env.algorithms.items()))
    for seeds, marked in ((0.0, True), (0.1, False)):
        same = replace(result, spread=replace(result.spread, seeds=seeds, prompts=0.2, rest=0.3))
        changed = replace(env, algorithms={algorithm: same})
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - open as long as the console
        console.print(learning_table(name, changed))
        printed = " ".join(console.export_text().split())
        assert ("0 †" in printed) == ("† The estimate of the variance is negative" in printed) == marked
        page = str(final_rewards(replace(results, environments={name: changed}, aggregate=None), {algorithm: 0}))
        assert ("0 †" in page) == ("† The estimate of the variance is negative" in page) == marked

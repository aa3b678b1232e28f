"""Coverage of the intervals, rate of false claims, and detectable differences of `rlalign compare`, by simulation.

    python benchmarks/statistics_coverage.py [STUDIES [PART ...]]

Each row simulates STUDIES synthetic studies with the functions of `rlalign compare` and prints how often the 95 %
interval contained the true value. Writes benchmarks/results/statistics_coverage.json; parts that are not run keep their
stored rows.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import RESULTS, write

from rlalign.compare.analysis.hypothesis_tests import detectable_difference, holm, unbiased_se
from rlalign.compare.analysis.intervals import ALPHA, bootstrap, iqm, median_interval, probability_of_improvement
from rlalign.compare.analysis.two_way import t_interval, two_way

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
SEEDS = (5, 8, 10)
# Standard deviations between seeds, between prompts, and of the residual.
SPREADS = {
    "only sampling noise": (0.0, 0.0, 1.0),
    "seeds": (1.0, 0.1, 0.1),
    "seeds and sampling": (0.3, 0.0, 1.0),
    "prompts and sampling": (0.1, 0.3, 1.0),
    "prompts most of all": (0.1, 1.0, 0.3),
    "all three alike": (0.3, 0.3, 1.0),
}
POPULATIONS: dict[str, Callable[[np.random.Generator, Any], Any]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "Student's t, 3 df": lambda rng, size: rng.standard_t(3, size=size),
    "near a ceiling (beta 8, 1)": lambda rng, size: rng.beta(8, 1, size=size),
}


def layout(rng: np.random.Generator, seeds: int, prompts: int, sd: tuple[float, float, float]) -> np.ndarray:
    """Draw rewards [seeds, prompts] with mean 0 from the two-way layout with these standard deviations."""
    a, b, e = sd
    shape = (seeds, prompts)
    return a * rng.normal(size=(seeds, 1)) + b * rng.normal(size=(1, prompts)) + e * rng.normal(size=shape)


def means(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the interval of means and differences, and of Student's t over seeds alone."""
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        crossed = alone = 0
        for _ in range(STUDIES):
            x = layout(rng, seeds, 32, sd)
            over_both = two_way(x).interval
            over_seeds = t_interval(x.mean(1))
            crossed += over_both.low <= 0 <= over_both.high
            alone += over_seeds.low <= 0 <= over_seeds.high
        rows.append({"noise": name, "seeds": seeds, "two-way": crossed / STUDIES, "over seeds": alone / STUDIES})
    return rows


def robust(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the intervals of IQM, median and probability of improvement."""
    rows = []
    for (name, draw), seeds in itertools.product(POPULATIONS.items(), SEEDS):
        population = draw(rng, 1_000_000)  # large enough to take its statistics as the true values
        true_iqm = float(iqm(population))
        true_median = float(np.median(population))
        shift = 1.0 * float(np.std(population))
        half = len(population) // 2
        true_improvement = float((population[:half] + shift > population[half:]).mean())
        hits = np.zeros(4)
        for _ in range(STUDIES):
            x, y = draw(rng, seeds), draw(rng, seeds)
            expanded = bootstrap([x], iqm)
            plain = np.quantile(iqm(x[rng.integers(0, seeds, (1000, seeds))]), [0.025, 0.975])
            median, _ = median_interval(x)
            improvement = probability_of_improvement(x + shift, y)
            hits += (
                expanded.low <= true_iqm <= expanded.high,
                plain[0] <= true_iqm <= plain[1],
                median.low <= true_median <= median.high,
                improvement.low <= true_improvement <= improvement.high,
            )
        names = ("IQM", "IQM, plain percentile", "median", "probability of improvement")
        rows.append({"population": name, "seeds": seeds, **dict(zip(names, hits / STUDIES, strict=True))})
    return rows


def aggregates(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the stratified bootstrap over four environments of different level and spread."""
    level = np.array([0.0, 0.3, 0.6, 0.8])
    spread = np.array([0.1, 0.2, 0.2, 0.1])
    rows = []
    population = np.concatenate([m + s * rng.normal(size=200_000) for m, s in zip(level, spread, strict=True)])
    statistics: dict[str, Callable[[Any], Any]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "IQM": iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    truths = [float(statistic(population)) for statistic in statistics.values()]
    for seeds in SEEDS:
        hits = np.zeros(3)
        for _ in range(STUDIES):
            strata = [m + s * rng.normal(size=seeds) for m, s in zip(level, spread, strict=True)]
            for at, (statistic, truth) in enumerate(zip(statistics.values(), truths, strict=True)):
                interval = bootstrap(strata, statistic, smooth=at == 2)  # 2: the median
                hits[at] += interval.low <= truth <= interval.high
        rows.append({"seeds": seeds, **dict(zip(statistics, hits / STUDIES, strict=True))})
    return rows


def verdicts(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the share of studies with a claim among four equal algorithms on two environments; Holm: at most 5 %."""
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        claimed = 0
        for _ in range(STUDIES):
            p = []
            for _ in range(2):
                runs = [layout(rng, seeds, 32, sd) for _ in range(4)]
                p += [two_way(a - b).p for a, b in itertools.combinations(runs, 2)]
            claimed += min(holm(p)) < ALPHA
        rows.append({"noise": name, "seeds": seeds, "studies with a false claim": claimed / STUDIES})
    return rows


def power(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the power at a true difference of the detectable size (80 % expected), and the mean printed size."""
    rows = []
    for seeds, tests in itertools.product(SEEDS, (1, 6)):
        sd = 0.5
        true = detectable_difference(sd / seeds**0.5, seeds - 1, tests)
        found = 0
        printed = []  # standard errors, since the detectable difference is proportional to them
        for _ in range(STUDIES):
            w = two_way(true + sd * rng.normal(size=(seeds, 1)))
            found += w.p < ALPHA / tests
            printed.append(unbiased_se(w.se, w.df))
        rows.append(
            {
                "seeds": seeds,
                "pairs": tests,
                "found": found / STUDIES,
                "printed / true, mean": float(np.mean(printed)) / (sd / seeds**0.5),
            }
        )
    return rows


def main() -> None:
    parts = {"means": means, "robust": robust, "aggregates": aggregates, "verdicts": verdicts, "power": power}
    path = RESULTS / "statistics_coverage.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    result: dict[str, Any] = {name: stored[name] for name in parts if name in stored}
    for i, name in enumerate(parts):
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        rows = parts[name](np.random.default_rng([0, i]))
        result[name] = {"studies": STUDIES, "rows": rows}
        print(f"\n{name}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        for row in rows:
            print(f"| {' | '.join(f'{v:.3f}' if isinstance(v, float) else str(v) for v in row.values())} |")
        print(write("statistics_coverage", result), flush=True)


if __name__ == "__main__":
    main()

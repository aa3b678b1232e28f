"""Coverage of the intervals, error rate of the verdicts and power, measured on synthetic studies.

    python benchmarks/statistics_coverage.py [STUDIES [PART ...]]

Each row simulates that many studies with the functions of `rlalign compare` and prints how often the 95 % interval
contained the true value. The script writes benchmarks/results/statistics_coverage.json; the file keeps the parts that
are not run.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import RESULTS, write

from rlalign.compare.analysis import statistics as st

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
SEEDS = (5, 8, 10)
# standard deviations of seeds, prompts and samples
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


def rewards(rng: np.random.Generator, seeds: int, prompts: int, sd: tuple[float, float, float]) -> np.ndarray:
    """Return rewards [seeds, prompts] with mean 0 and standard deviations of seeds, prompts and samples."""
    sd_seeds, sd_prompts, sd_samples = sd
    of_seeds = sd_seeds * rng.normal(size=(seeds, 1))
    of_prompts = sd_prompts * rng.normal(size=(1, prompts))
    return of_seeds + of_prompts + sd_samples * rng.normal(size=(seeds, prompts))


def means(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure the interval of means and differences, and Student's t interval over seeds alone."""
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        two_way_hits = seed_hits = 0
        for _ in range(STUDIES):
            x = rewards(rng, seeds, 32, sd)
            two_way = st.two_way(x).interval
            over_seeds = st.t_interval(x.mean(1))
            two_way_hits += two_way.low <= 0 <= two_way.high
            seed_hits += over_seeds.low <= 0 <= over_seeds.high
        coverage = {"two-way": two_way_hits / STUDIES, "over seeds": seed_hits / STUDIES}
        rows.append({"noise": name, "seeds": seeds, **coverage})
    return rows


def robust(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure the intervals of IQM, median and probability of improvement."""
    rows = []
    for (name, draw), seeds in itertools.product(POPULATIONS.items(), SEEDS):
        # the true values, from a large sample
        population = draw(rng, 1_000_000)
        true_iqm = float(st.iqm(population))
        true_median = float(np.median(population))
        shift = 1.0 * float(np.std(population))
        half = len(population) // 2
        true_probability = float((population[:half] + shift > population[half:]).mean())
        hits = np.zeros(4)
        for _ in range(STUDIES):
            x = draw(rng, seeds)
            y = draw(rng, seeds)
            iqm = st.bootstrap([x], st.iqm)
            percentile = np.quantile(st.iqm(x[rng.integers(0, seeds, (1000, seeds))]), [0.025, 0.975])
            median, _ = st.median_interval(x)
            probability = st.probability_of_improvement(x + shift, y)
            hits += (
                iqm.low <= true_iqm <= iqm.high,
                percentile[0] <= true_iqm <= percentile[1],
                median.low <= true_median <= median.high,
                probability.low <= true_probability <= probability.high,
            )
        names = ("IQM", "IQM, plain percentile", "median", "probability of improvement")
        rows.append({"population": name, "seeds": seeds, **dict(zip(names, hits / STUDIES, strict=True))})
    return rows


def aggregates(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure the stratified bootstrap over four environments of different level and spread."""
    level = np.array([0.0, 0.3, 0.6, 0.8])
    spread = np.array([0.1, 0.2, 0.2, 0.1])
    rows = []
    population = np.concatenate([m + s * rng.normal(size=200_000) for m, s in zip(level, spread, strict=True)])
    statistics: dict[str, Callable[[Any], Any]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "IQM": st.iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    truths = [float(statistic(population)) for statistic in statistics.values()]
    for seeds in SEEDS:
        hits = np.zeros(3)
        for _ in range(STUDIES):
            strata = [m + s * rng.normal(size=seeds) for m, s in zip(level, spread, strict=True)]
            for i, (statistic, truth) in enumerate(zip(statistics.values(), truths, strict=True)):
                interval = st.bootstrap(strata, statistic, smooth=i == 2)  # smooth for the median alone
                hits[i] += interval.low <= truth <= interval.high
        rows.append({"seeds": seeds, **dict(zip(statistics, hits / STUDIES, strict=True))})
    return rows


def verdicts(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure how often a difference is claimed among four equal algorithms on two environments.

    Holm's correction limits the share to 5 %.
    """
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        studies_with_claim = 0
        for _ in range(STUDIES):
            p = []
            for _ in range(2):
                runs = [rewards(rng, seeds, 32, sd) for _ in range(4)]
                p += [st.two_way(a - b).p for a, b in itertools.combinations(runs, 2)]
            studies_with_claim += min(st.holm(p)) < st.ALPHA
        rows.append({"noise": name, "seeds": seeds, "studies with a false claim": studies_with_claim / STUDIES})
    return rows


def power(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Measure how often a true difference of the detectable size is found (80 %), and the mean of the printed size."""
    rows = []
    for seeds, tests in itertools.product(SEEDS, (1, 6)):
        sd = 0.5
        true_difference = st.detectable(sd / seeds**0.5, seeds - 1, tests)
        significant = 0
        standard_errors = []  # the printed size is proportional to them
        for _ in range(STUDIES):
            result = st.two_way(true_difference + sd * rng.normal(size=(seeds, 1)))
            significant += result.p < st.ALPHA / tests
            standard_errors.append(st.unbiased(result.se, result.df))
        rows.append(
            {
                "seeds": seeds,
                "pairs": tests,
                "found": significant / STUDIES,
                "printed / true, mean": float(np.mean(standard_errors)) / (sd / seeds**0.5),
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

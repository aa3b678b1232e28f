"""Do the intervals cover, are the verdicts right, is the printed detectable difference true? Synthetic studies.

    python benchmarks/statistics_coverage.py [STUDIES [PART ...]]

Each row simulates so many studies with the functions that `rlalign compare` uses and prints how often the 95 % interval
held the truth. Writes benchmarks/results/statistics_coverage.json; parts that are not run keep what it has.
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
    a, b, e = sd
    shape = (seeds, prompts)
    return a * rng.normal(size=(seeds, 1)) + b * rng.normal(size=(1, prompts)) + e * rng.normal(size=shape)


def means(rng: np.random.Generator) -> list[dict[str, Any]]:
    """The interval of means and differences, beside Student's t over seeds alone."""
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        crossed = alone = 0
        for _ in range(STUDIES):
            x = layout(rng, seeds, 32, sd)
            i, j = st.two_way(x).interval, st.t_interval(x.mean(1))
            crossed += i.low <= 0 <= i.high
            alone += j.low <= 0 <= j.high
        rows.append({"noise": name, "seeds": seeds, "two-way": crossed / STUDIES, "over seeds": alone / STUDIES})
    return rows


def robust(rng: np.random.Generator) -> list[dict[str, Any]]:
    """IQM, median and probability of improvement."""
    rows = []
    for (name, draw), seeds in itertools.product(POPULATIONS.items(), SEEDS):
        many = draw(rng, 1_000_000)
        truth, middle = float(st.iqm(many)), float(np.median(many))
        shift = 1.0 * float(np.std(many))
        superior = float((many[: len(many) // 2] + shift > many[len(many) // 2 :]).mean())
        hits = np.zeros(4)
        for _ in range(STUDIES):
            x, y = draw(rng, seeds), draw(rng, seeds)
            i = st.bootstrap([x], st.iqm)
            plain = np.quantile(st.iqm(x[rng.integers(0, seeds, (1000, seeds))]), [0.025, 0.975])
            j, _ = st.median_interval(x)
            q = st.probability_of_improvement(x + shift, y)
            hits += (
                i.low <= truth <= i.high,
                plain[0] <= truth <= plain[1],
                j.low <= middle <= j.high,
                q.low <= superior <= q.high,
            )
        names = ("IQM", "IQM, plain percentile", "median", "probability of improvement")
        rows.append({"population": name, "seeds": seeds, **dict(zip(names, hits / STUDIES, strict=True))})
    return rows


def aggregates(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Stratified bootstrap over four environments of different level and spread."""
    level, spread, rows = np.array([0.0, 0.3, 0.6, 0.8]), np.array([0.1, 0.2, 0.2, 0.1]), []
    big = np.concatenate([m + s * rng.normal(size=200_000) for m, s in zip(level, spread, strict=True)])
    statistics: dict[str, Callable[[Any], Any]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "IQM": st.iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    truths = [float(statistic(big)) for statistic in statistics.values()]
    for seeds in SEEDS:
        hits = np.zeros(3)
        for _ in range(STUDIES):
            strata = [m + s * rng.normal(size=seeds) for m, s in zip(level, spread, strict=True)]
            for at, (statistic, truth) in enumerate(zip(statistics.values(), truths, strict=True)):
                i = st.bootstrap(strata, statistic, smooth=at == 2)
                hits[at] += i.low <= truth <= i.high
        rows.append({"seeds": seeds, **dict(zip(statistics, hits / STUDIES, strict=True))})
    return rows


def verdicts(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Four algorithms on two environments, all alike: how often is anything claimed? At most 5 %, says Holm."""
    rows = []
    for (name, sd), seeds in itertools.product(SPREADS.items(), SEEDS):
        claimed = 0
        for _ in range(STUDIES):
            p = []
            for _ in range(2):
                runs = [layout(rng, seeds, 32, sd) for _ in range(4)]
                p += [st.two_way(a - b).p for a, b in itertools.combinations(runs, 2)]
            claimed += min(st.holm(p)) < st.ALPHA
        rows.append({"noise": name, "seeds": seeds, "studies with a false claim": claimed / STUDIES})
    return rows


def power(rng: np.random.Generator) -> list[dict[str, Any]]:
    """A true difference of the detectable size: found in 80 % of studies; and the printed size on average."""
    rows = []
    for seeds, tests in itertools.product(SEEDS, (1, 6)):
        sd = 0.5
        true = st.detectable(sd / seeds**0.5, seeds - 1, tests)
        found, printed = 0, []  # the detectable size is proportional to the standard error
        for _ in range(STUDIES):
            w = st.two_way(true + sd * rng.normal(size=(seeds, 1)))
            found += w.p < st.ALPHA / tests
            printed.append(st.unbiased(w.se, w.df))
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
    kept = json.loads(path.read_text()) if path.is_file() else {}
    result: dict[str, Any] = {name: kept[name] for name in parts if name in kept}
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

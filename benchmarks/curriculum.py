"""Curriculum against uniform: sorting strings of 1 to 8 letters with a reward for the exact answer alone.

    python benchmarks/curriculum.py                     # ten seeds, about 20 minutes on 2 cores
    python benchmarks/curriculum.py --seeds 2           # a trial
    python benchmarks/curriculum.py --draw              # the figure and the page from the stored results

The lengths are the environments of a mixture. Both arms have the same number of steps and samples: uniform gives each
length an eighth of the prompts (`tasks.mixing weights`), the curriculum draws from difficulty pools over the lengths
(`tasks.mixing difficulty`). Each seed has one initial policy for both arms: a GRU that imitates answers of 1 to 3
letters for 60 steps, so that short strings are solved at times and long ones never, and most groups have equal rewards.
`scratch` are further seeds whose policies start without that imitation, at a success of nearly 0 on all lengths.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, described, write
from pages import DOCS, Parts, fill, table

import rlalign

PAGE = DOCS / "concepts" / "task_order.md"
FIGURE = DOCS / "images" / "curriculum.png"
LEVELS = range(1, 9)
IMITATED = range(1, 4)
STEPS = {"warm": 200, "scratch": 200}
FIRST_SEED = 100  # 0 to 9 were those of the trials that chose the number of steps
VALIDATIONS = 5
ARMS = {"uniform": "weights", "curriculum": "difficulty"}
RL = {
    "rollout__prompts": 16, "rollout__group_size": 8, "learner__lr": 2e-3, "objective__kl__coef": 0.0,
    "evaluation__prompts": 16, "evaluation__samples": 4, "quiet": True,
}  # fmt: skip
_ALPHA = 0.05
_POWER = 0.8


def levels(lengths: range) -> str:
    """Return the mixture of some lengths."""
    file = Path(__file__).with_name("sort_levels.py")
    return ",".join(f"{file}:Level?length={length}" for length in lengths)


def initial(folder: Path, seed: int) -> str:
    """Return the initial policy of a seed: a GRU that has imitated short answers."""
    rlalign.train(
        levels(IMITATED), "gru", "rloo", ["token_match=0.01"], seed=seed, steps=60, output=folder, quiet=True,
        rollout__prompts=8, rollout__group_size=2, supervised__align_interval=1, evaluation__prompts=2,
    )  # fmt: skip
    return str(folder / "policy")


def arm(folder: Path, policy: str, seed: int, steps: int, mixing: str, entropy: float) -> dict[str, Any]:
    """Return the success of one run: at each validation, and at the end by length."""
    start = time.perf_counter()
    run = rlalign.train(
        levels(LEVELS), policy, "rloo", seed=seed, steps=steps, output=folder, tasks__mixing=mixing,
        evaluation__every=steps // VALIDATIONS, objective__regularizer__entropy_coef=entropy, **RL,
    )  # fmt: skip
    assert run.comparison is not None
    validations = [value for value in run.metrics["eval/reward"] if value is not None]
    parts = run.comparison.by_environment.values()
    return {
        "before": run.comparison.before.mean("reward"),
        "curve": validations,
        "after": run.comparison.after.mean("reward"),
        "by_length": [part.after.mean("reward") for part in parts],
        "signal": float(np.mean(run.metrics["rollout/signal"])),
        "seconds": round(time.perf_counter() - start),
    }


def measure(seeds: int, scratch_seeds: int, name: str) -> dict[str, Any]:
    """Store and return the runs of both arms, warm and from scratch, with their paired differences.

    No seeds of one start leave its stored runs as they are.
    """
    path = RESULTS / f"{name}.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results = {key: value for key, value in results.items() if key != "machine"} | {"steps": STEPS}
    for start, count in (("warm", seeds), ("scratch", scratch_seeds)):
        runs: list[dict[str, Any]] = []
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                policy = initial(folder / "initial", seed) if start == "warm" else "gru"
                entropy = 0.0 if start == "warm" else 0.03  # without it a policy from scratch becomes deterministic
                arms = ARMS.items()
                runs.append({key: arm(folder / key, policy, seed, STEPS[start], mix, entropy) for key, mix in arms})
            print(start, seed, {key: round(run["after"], 3) for key, run in runs[-1].items()}, flush=True)
            results[start] = {"runs": runs, **(compared(runs) if len(runs) > 1 else {})}
            write(name, results)  # after each seed: a run that is interrupted keeps its seeds
    return results


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over seeds, the paired difference with its 95 % t-interval, and what these seeds could detect."""
    from scipy import stats

    gaps = np.array([run["curriculum"]["after"] - run["uniform"]["after"] for run in runs])
    n, sd = len(gaps), float(gaps.std(ddof=1))
    half = float(stats.t.ppf(1 - _ALPHA / 2, n - 1)) * sd / math.sqrt(n)
    return {
        "means": {name: {key: float(np.mean([run[name][key] for run in runs])) for key in ("before", "after", "signal")}
                  for name in ARMS},
        "difference": {"mean": float(gaps.mean()), "low": float(gaps.mean()) - half, "high": float(gaps.mean()) + half},
        "sd": sd,
        "detectable": detectable(sd, n),
    }  # fmt: skip


def detectable(sd: float, n: int) -> float:
    """Return the mean paired difference that a two-sided t-test at 5 % finds with a power of 80 %.

    Args:
        sd: standard deviation of the paired differences.
        n: number of seeds, at least 2.
    """
    from scipy import optimize, stats

    critical = stats.t.ppf(1 - _ALPHA / 2, n - 1)

    def missing(effect: float) -> float:  # the other tail has less than 1e-6 at a power of 80 %
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n))) - _POWER

    largest = 1.0
    while missing(largest) < 0:
        largest *= 1.5
    return float(optimize.brentq(missing, 1e-3, largest)) * sd


def stored() -> dict[str, Any]:
    """Return the stored results."""
    results: dict[str, Any] = json.loads((RESULTS / "curriculum.json").read_text(encoding="utf-8"))
    return results


def parts() -> Parts:
    """Return the table and the sentences of the page."""
    results = stored()
    rows = []
    for start, name in (("warm", "imitated 1 to 3 letters"), ("scratch", "none")):
        if "difference" not in results.get(start, {}):  # it needs two seeds
            continue
        found = results[start]
        d = found["difference"]
        means = found["means"]
        rows.append(
            [
                name,
                str(len(found["runs"])),
                str(results["steps"][start]),
                *(f"{means[arm]['after']:.3f}" for arm in ARMS),
                f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]",
                f"{found['detectable']:.3f}",
            ]
        )
    heads = ["start", "seeds", "steps", *ARMS, "difference, 95 % CI", "detectable with 80 %"]
    warm = results["warm"]["means"]
    sentences = (
        f"The share of groups with different rewards was {warm['uniform']['signal']:.2f} with uniform shares and "
        f"{warm['curriculum']['signal']:.2f} with the curriculum. Measured on {described(results['machine'])}."
    )
    return {PAGE: {"curriculum": f"{table(heads, rows)}\n\n{sentences}"}}


def draw() -> None:
    """Draw the figure: learning curves with 95 % intervals over seeds, and the success at the end by length."""
    import matplotlib
    from matplotlib.figure import Figure
    from scipy import stats

    results = stored()
    runs = results["warm"]["runs"]
    t = float(stats.t.ppf(0.975, len(runs) - 1))
    steps = [results["steps"]["warm"] * k // VALIDATIONS for k in range(VALIDATIONS + 1)]
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.4, 3.3), layout="constrained", dpi=150)
        curves, lengths = figure.subplots(1, 2, sharey=False)
        for name, color in zip(ARMS, ("#8a94a0", "#1f6fb2"), strict=True):
            values = np.array([[run[name]["before"], *run[name]["curve"]] for run in runs])
            final = np.array([run[name]["by_length"] for run in runs])
            for axis, x, data in ((curves, steps, values), (lengths, list(LEVELS), final)):
                mean, half = data.mean(0), t * data.std(0, ddof=1) / math.sqrt(len(runs))
                axis.plot(x, mean, color=color, label=name, marker="o", markersize=3)
                axis.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
        curves.set(xlabel="step", ylabel="share of correct answers", title="All lengths, held out", ylim=(0, None))
        lengths.set(xlabel="letters", title=f"By length after {steps[-1]} steps", ylim=(0, 1.02))
        curves.legend(frameon=False)
        figure.savefig(FIGURE)


def main() -> None:
    """Measure, store, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--scratch-seeds", type=int, default=0)
    parser.add_argument("--name", default="curriculum", help="of the file of results; another one is a trial")
    parser.add_argument("--draw", action="store_true", help="only draw the stored results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if not arguments.draw:
        measure(arguments.seeds, arguments.scratch_seeds, arguments.name)
    if arguments.name == "curriculum":
        draw()
        fill(parts())


if __name__ == "__main__":
    main()

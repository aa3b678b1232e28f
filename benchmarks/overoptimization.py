"""Over-optimization on Preference-v0: gold against KL for RLOO and best-of-n, and a run that stops at a KL budget.

    python benchmarks/overoptimization.py                          # five seeds
    python benchmarks/overoptimization.py --seeds 2 --steps 6      # a trial

The proxy is a Bradley-Terry model of 1,000 simulated preferences, gold the reward behind them. Each seed trains a GRU
policy without KL, with a validation after each step, and measures best-of-64 of its initial policy on the same prompts.
Then it trains again with `evaluation.stop_kl` at the turning point that the fit to the other seeds gives, so that the
budget is not chosen on the seed that it is used for.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write

import rlalign
from rlalign.feedback.overoptimization import contents, read_curves, turning_point
from rlalign.feedback.overoptimization.fits import fit_seeds
from rlalign.storage.jsonl import nullable

SETTINGS = {"evaluation__every": 1, "evaluation__prompts": 32, "rollout__prompts": 8}
N = 64


def train(folder: Path, seed: int, steps: int, stop_kl: float = 0.0) -> rlalign.Run:
    """Return a run of RLOO on the proxy."""
    return rlalign.train(
        "rlalign/Preference-v0", "gru", "rloo", seed=seed, steps=steps, output=folder, quiet=True,
        evaluation__stop_kl=stop_kl, **SETTINGS,
    )  # fmt: skip


def budget_without(folder: Path, seeds: int, left_out: int) -> float:
    """Return the KL at which gold is largest by the fit to all seeds but one; 0, no budget, if it has none."""
    curves, _ = read_curves([folder / f"rloo-{seed}" for seed in range(seeds) if seed != left_out])
    fit = fit_seeds("rl", [(curve.d, curve.gold) for curve in curves if curve.form == "rl"], replicates=100).fit
    kl = turning_point("rl", fit.alpha, fit.beta) ** 2
    return kl if math.isfinite(kl) else 0.0


def final(run: rlalign.Run) -> dict[str, Any]:
    """Return step, KL and rewards of the trained policy on the held-out prompts."""
    assert run.comparison is not None
    after = run.comparison.after
    return {"steps": len(run.metrics["step"]), **{name: after.mean(name) for name in ("kl", "reward", "gold")}}


def measure(seeds: int, steps: int) -> dict[str, Any]:
    """Return the groups with their fits, and per seed the run to the end and the one that stops."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        free = []
        for seed in range(seeds):
            run = train(folder / f"rloo-{seed}", seed, steps)
            free.append(final(run))
            run.best_of(N, split="validation")
        curves, _ = read_curves([folder])
        content = contents(curves, proxy="reward", gold="gold")
        budgets = [budget_without(folder, seeds, seed) for seed in range(seeds)] if seeds > 1 else []
        stopped = [final(train(folder / f"stop-{i}", i, steps, budget)) for i, budget in enumerate(budgets)]
    groups = []
    for group in content["groups"]:
        fits = {name: {k: v for k, v in fit.items() if k != "line"} for name, fit in group["fits"].items()}
        groups.append({**{k: group[k] for k in ("name", "form", "sentence", "measured", "range")}, "fits": fits})
    return {
        "seeds": seeds,
        "steps": steps,
        "n": N,
        "seconds": round(time.perf_counter() - start),
        "notes": content["notes"],
        "groups": groups,
        "free": free,
        "budgets": budgets,
        "stopped": stopped,
    }


def main() -> None:
    """Measure, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    figures = nullable(measure(arguments.seeds, arguments.steps))
    print(json.dumps(figures, indent=1))
    print(write("overoptimization", figures))


if __name__ == "__main__":
    main()

"""DPO, TRL's DPO, PPO, GRPO and best-of-n at equal preference data and equal samples, as one study on Preference-v0.

    python benchmarks/preference_study.py               # five seeds; about 15 minutes on one core
    python benchmarks/preference_study.py --page        # writes docs/results/preference_study.md

500 votes on completions of an untrained policy (`preference_road.py`, temperature 0.25) are exported as pairs, on which
the DPO runs train, and train a linear reward model, which is the reward of the others. Each step of each run reads or
samples 128 completions. One `rlalign compare` makes all runs; gold, which nothing is trained on, is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, described, write
from pages import DOCS, Parts, fill, table
from preference_road import ENV, GOLD, collect, run, train
from scipy import stats

NAME = "preference_study"
PAGE = DOCS / "results" / "preference_study.md"
TITLES = {"dpo": "dpo", "trl:dpo": "trl:dpo", "ppo": "ppo", "grpo": "grpo", "best_of_n": "best of 16"}


def measure(seeds: int, steps: int) -> dict[str, Any]:
    """Return the figures of the study."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train(folder / "base", "0", "best_of_n", "--evaluation.best-of", "2", "--reward", GOLD)
        store = collect(folder, folder / "base", {"kind": "temperature", "votes": 500, "seed": 0})
        run("reward-model", "train", store, "--model", "linear", "--output", folder / "rm", "--seed", "0")
        run("feedback", "export", store, "--output", folder / "prefs.jsonl", "--split", "train")
        pairs = len((folder / "prefs.jsonl").read_text().splitlines())
        run(
            "compare", "--algorithms", ",".join(TITLES), "--envs", ENV, "--policy", "tiny", "--seeds", seeds,
            "--steps", steps, "--data", folder / "prefs.jsonl", "--reward", folder / "rm", "--reward", f"{GOLD}=0",
            "--evaluation.prompts", 32, "--evaluation.samples", 4, "--objective.kl.coef", 0.1,
            "--output", folder / "study", "--jobs", 1,
        )  # fmt: skip
        runs = {name: figures(folder / "study", name, seeds) for name in TITLES}
    return {
        "seeds": seeds,
        "steps": steps,
        "pairs": pairs,
        "runs": runs,
    }


def figures(study: Path, algorithm: str, seeds: int) -> list[dict[str, Any]]:
    """Return gold, proxy and KL before and after each run of an algorithm, by seed."""
    found = {}
    for path in sorted(study.rglob("config.json")):
        config = json.loads(path.read_text())
        evaluation = path.parent / "report" / "evaluation.json"
        if config.get("algorithm") == algorithm and evaluation.is_file():
            metrics = json.loads(evaluation.read_text())["metrics"]
            found[config["seed"]] = {
                name: [round(metrics[key][side], 4) for side in ("before", "after")]
                for name, key in (("gold", "gold"), ("proxy", "reward"), ("kl", "kl"))
                if key in metrics
            }
    assert len(found) == seeds, (algorithm, sorted(found))
    return [found[seed] for seed in sorted(found)]


def parts() -> Parts:
    """Return the parts of the page."""
    stored = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    machine = (
        f"Machine: {described(stored['machine'])}. {stored['pairs']} pairs to train on, {stored['steps']} steps of 128 "
        f"completions, {stored['seeds']} seeds."
    )
    heads = ["algorithm", "gold before", "gold after", "change of gold", "proxy after", "KL, nats"]
    rows = []
    for name, title in TITLES.items():
        runs = stored["runs"][name]
        before, after = (np.array([run["gold"][side] for run in runs]) for side in (0, 1))
        kl = f"{np.mean([run['kl'][1] for run in runs]):.1f}" if all("kl" in run for run in runs) else ""
        proxy = f"{np.mean([run['proxy'][1] for run in runs]):.2f}"
        change = interval(after - before)
        rows.append(
            [f"`{name}`" if name == title else title, f"{before.mean():.2f}", f"{after.mean():.2f}", change, proxy, kl]
        )
    return {PAGE: {"machine": machine, "gold": table(heads, rows), "pairs": differences(stored)}}


def differences(stored: dict[str, Any]) -> str:
    """Return the table of the paired differences of gold after training, with Holm's correction."""
    names = list(TITLES)
    after = {name: np.array([run["gold"][1] for run in stored["runs"][name]]) for name in names}
    found = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    tests = [float(stats.ttest_rel(after[a], after[b]).pvalue) for a, b in found]
    order = np.argsort(tests)
    adjusted = np.empty(len(tests))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, tests[i] * (len(tests) - rank)))
        adjusted[i] = largest
    rows = [
        [f"{TITLES[a]} - {TITLES[b]}", interval(after[a] - after[b]), f"{p:.3f}" if p >= 0.001 else "< 0.001"]
        for (a, b), p in zip(found, adjusted, strict=True)
    ]
    heads = ["difference of gold", "mean and 95 % interval", "p after Holm's correction"]
    claims = []
    for (a, b), p in zip(found, adjusted, strict=True):
        if p < 0.05:
            better, worse = (a, b) if after[a].mean() > after[b].mean() else (b, a)
            claims.append(f"{TITLES[better]} ends above {TITLES[worse]}")
    sentence = "; ".join(claims) or "no algorithm ends above another one"
    n = stored["seeds"]
    same = float(np.abs(after["dpo"] - after["trl:dpo"]).max())
    return (
        f"{table(heads, rows)}\n\nAt the level of 5 % after Holm's correction: {sentence}. The other differences "
        f"cannot be claimed with {n} seeds. Gold of dpo and trl:dpo differs by at most {same:.4f} at any seed."
    )


def interval(values: np.ndarray[Any, Any]) -> str:
    """Return mean and 95 % t-interval over seeds."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def main() -> None:
    """Measure and store the figures, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--page", action="store_true", help="write the page from the stored results")
    arguments = parser.parse_args()
    if arguments.page:
        fill(parts())
        return
    print(write(NAME, measure(arguments.seeds, arguments.steps)))


if __name__ == "__main__":
    main()

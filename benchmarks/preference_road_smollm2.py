"""The road from votes to a policy with SmolLM2-135M, once: 500 votes, a reward model with LoRA, RLOO, and DPO.

    python benchmarks/preference_road_smollm2.py     # about half an hour on one core
    python benchmarks/preference_road_smollm2.py --votes 24 --steps 1 --rates 1e-4    # a trial

Simulated people judge continuations of Sentiment-v0 by VADER, which is the gold reward, at a temperature of 0.25. DPO
runs once per learning rate, with the default adapters. Parts that --folder has are not repeated.
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
from preference_road import run

from rlalign.reward_models.data import divide, read_pairs
from rlalign.reward_models.settings import Settings
from rlalign.rewards.reward_model.manifest import read_manifest
from rlalign.rewards.text import text_of
from rlalign.rewards.weighted_sum import compose

ENV = "rlalign/Sentiment-v0"
GOLD = "vader"
PEOPLE = 3
STUDY = """name = "Which continuation is better?"
policies = ["base"]
count = {count}
votes_per_item = 1
sampling.samples = 4
"""
"""Four completions of a prompt make six pairs, a few of them equal: more pairs than votes."""
NOISE = ("--noise", 0.25, "--side", 0, "--length", 0)


def measure(folder: Path, votes: int, steps: int, rates: list[float]) -> dict[str, Any]:
    """Return the figures of the road, whose parts are written to a folder."""
    seconds: dict[str, float] = {}

    def part(name: str, output: Path, *commands: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        if not output.exists():
            for command in commands:
                run(*command)
        seconds[name] = round(time.perf_counter() - start)
        print(f"{name}: {seconds[name]} s", flush=True)

    base = folder / "base"
    small = ("--evaluation.best-of", 2, "--evaluation.prompts", 2)
    part("base", base / "policy", ("train", "--env", ENV, "--algorithm", "best_of_n", *small, "--output", base))
    store, model, prefs = folder / "study.db", folder / "rm", folder / "prefs.jsonl"
    (folder / "study.toml").write_text(STUDY.format(count=max(12, math.ceil(votes / 5))))
    each = ("--people", PEOPLE, "--votes", math.ceil(votes / PEOPLE), "--reward", GOLD, *NOISE)
    part(
        "votes", prefs, ("feedback", "sample", folder / "study.toml"), ("feedback", "simulate", store, *each),
        ("feedback", "export", store, "--output", prefs),
    )  # fmt: skip
    part("reward model", model, ("reward-model", "train", store, "--lora-r", 8, "--output", model))
    rewards = ("--reward", model, "--reward", f"{GOLD}=0")
    train = ("train", "--env", ENV, *rewards, "--steps", steps)
    part("RLOO", folder / "rloo" / "report", (*train, "--output", folder / "rloo"))
    for rate in rates:
        output = folder / f"dpo-{rate:g}"
        options = ("--algorithm", "trl:dpo", "--data", prefs, "--learner.lr", rate, "--output", output)
        part(f"DPO {rate:g}", output / "report", (*train, *options))
    training = read_manifest(model).training
    return {
        "votes": votes,
        "steps": steps,
        "seconds": {name: seconds[name] for name in ("votes", "reward model", "RLOO")},
        "pairs": training["train"] + training["held_out"],
        "held_out": training["held_out"],
        "accuracy": training["metrics"]["accuracy"],
        "gold_accuracy": gold_accuracy(store),
        **outcome(folder / "rloo"),
        "dpo": [{"rate": rate, **outcome(folder / f"dpo-{rate:g}")} for rate in rates],
    }


def gold_accuracy(store: Path) -> float:
    """Return the accuracy of gold on the held-out votes; equal values count half."""
    _, held_out = divide(list(read_pairs(store).rows), test=Settings().test)
    sides = [[text_of(getattr(pair, side).completion) for pair in held_out] for side in ("chosen", "rejected")]
    with compose(GOLD) as reward:
        chosen, rejected = (reward.score("episode", [""] * len(t), t, [[]] * len(t)).total for t in sides)
    return float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())


def outcome(folder: Path) -> dict[str, Any]:
    """Return proxy, gold and KL of a run on the held-out prompts."""
    metrics = json.loads((folder / "report" / "evaluation.json").read_text())["metrics"]
    rows = {}
    for name, metric in (("proxy", "reward"), ("gold", GOLD)):
        found = metrics[metric]
        difference = {key: found["difference"][key] for key in ("low", "high")}
        rows[name] = {
            "before": found["before"], "after": found["after"], "value": found["difference"]["mean"], **difference,
        }  # fmt: skip
    return {"metrics": rows, "kl": metrics["kl"]["after"]}


def main() -> None:
    """Measure, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=500)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4])
    parser.add_argument("--folder", type=Path, help="of the parts; by default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, arguments.votes, arguments.steps, arguments.rates)
    print(json.dumps(figures, indent=1))
    print(write("preference_road_smollm2", figures))


if __name__ == "__main__":
    main()

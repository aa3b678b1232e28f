"""Learning curves of a small policy in each environment, with held-out reward before and after, over several seeds.

    python benchmarks/environments.py                                  # all environments, 3 seeds
    python benchmarks/environments.py --envs sort wordle --seeds 5     # some environments, more seeds
    python benchmarks/environments.py --draw                           # only the figure and the table

A cell is one environment with one seed. It measures the untrained policy on held-out prompts. If the plan has a warm
start (steps with an interleaved supervised update on reference trajectories), it measures the policy after it. Then it
trains the policy, measures it on the same prompts, and stores the alarms of the run. The signal is the share of groups
of 8 samples of one prompt with nonzero reward variance, before training; where it is 0, a group baseline has no
gradient. A cell "learns" if the paired 95 % interval of the gain of its last training lies above 0. Seconds are CPU
seconds on one core. Finished cells are stored in benchmarks/results/environments.json and are not repeated (--again
repeats them). Several processes can work at the same time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, described, write
from pages import DOCS, Parts, fill, table

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.envs.registration import find_env
from rlalign.envs.task_stream import TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import MissingExtraError
from rlalign.policies.factory import make_sampler
from rlalign.registry import ENVS
from rlalign.rollout.collect import collect
from rlalign.rollout.dynamic_sampling import has_reward_variance

POINTS = 40  # per learning curve
HELD_OUT = {"evaluation__prompts": 64, "evaluation__samples": 8}


@dataclass(frozen=True)
class Plan:
    """Training settings of an environment.

    Attributes:
        policy: preset of a policy from scratch.
        steps: number of policy-gradient steps, 128 samples each.
        warm: number of earlier steps with a supervised update; 0 if the reward is dense enough without them.
        spec: arguments of the environment, as in `reasoning?task=gcd`.
        settings: other settings of the run.
        warm_settings: settings of the warm start alone.
    """

    policy: str = "gru"
    steps: int = 200
    warm: int = 0
    spec: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    warm_settings: dict[str, Any] = field(default_factory=dict)


def entropy(coef: float) -> dict[str, Any]:
    """Return the settings of an entropy bonus; without it a policy settles on an answer that is sometimes correct."""
    return {"objective__regularizer__entropy_coef": coef}


FEW = {"rollout__prompts": 4, "evaluation__prompts": 8, "evaluation__samples": 2}  # slow games whose signal is 0
# The prompt contains the words of the answer.
EXTRACTION = Plan(warm=100, steps=200, settings=entropy(0.05))
PLANS: dict[str, Plan] = {
    **dict.fromkeys(("Constrained", "Entities", "Events"), EXTRACTION),
    "Summarise": replace(EXTRACTION, steps=300),
    "Translate": Plan(warm=100, steps=100),
    **dict.fromkeys(("Copy", "Parity", "Reverse", "Sort"), Plan(steps=400, settings=entropy(0.1))),
    **dict.fromkeys(("Alignment", "HackMe", "OverlongTrap"), Plan(steps=300)),
    "Add": Plan(steps=400, spec="digits=2", settings=entropy(0.05)),
    "Math": Plan(steps=400, settings=entropy(0.1)),
    "Dialogue": Plan(warm=100, steps=250, settings=entropy(0.01), warm_settings={"supervised__weight": 10.0}),
    **dict.fromkeys(("Detoxify", "Sentiment"), Plan(steps=300, settings=entropy(0.03))),
    "Reasoning": Plan(steps=300, settings=entropy(0.05) | {"learner__lr": 1e-3}),
    "Tools": Plan(warm=200, steps=400, settings=entropy(0.01), warm_settings={"supervised__weight": 10.0}),
    "Classification": Plan(warm=30, steps=150, spec="level=3"),
    **dict.fromkeys(("Games", "TextWorld"), Plan(steps=10, settings=FEW)),
}


def short(name: str) -> str:
    """Return the name of an environment without namespace and version."""
    return name.rpartition("/")[2].removesuffix("-v0")


def cell(name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Return the measurements of one environment with one seed."""
    env = name + (f"?{plan.spec}" if plan.spec else "")
    common = {**HELD_OUT, **plan.settings, "seed": seed, "quiet": True}
    start = time.process_time()
    result: dict[str, Any] = {"plan": asdict(plan), "signal": signal_rate(env, plan, seed)}
    config = default_config(env=env, policy=plan.policy, algorithm="grpo")
    with tempfile.TemporaryDirectory() as folder:
        policy = plan.policy
        if plan.warm:
            warm = rlalign.train(
                env, policy, config=replace(config, steps=plan.warm), output=f"{folder}/warm",
                supervised__align_interval=1, **common | plan.warm_settings,
            )  # fmt: skip
            policy = f"{folder}/warm/policy"
            result |= {"untrained": held_out(warm)["before"], "warm_curve": curve(warm)}
        run = rlalign.train(
            env, config=replace(config, policy=policy, steps=plan.steps), output=f"{folder}/run", **common
        )
        gain = run.comparison.differences["reward"]
        measured = held_out(run)
        result |= {"untrained": measured["before"], "warm": None} if not plan.warm else {"warm": measured["before"]}
        result |= {"trained": measured["after"], "curve": curve(run), "gain": [gain.mean, gain.low, gain.high]}
        result |= {"prompts": gain.n, "alarms": raised(run)}
    return {**result, "learns": gain.low > 0, "seconds": round(time.process_time() - start, 1)}


def raised(run: rlalign.Run) -> dict[str, list[list[int | None]]]:
    """Return alarm -> first and last step of each period in which it was raised (None: to the end)."""
    path = run.folder / "report" / "alarms.json"
    return {name: alarm["held"] for name, alarm in json.loads(path.read_text()).items()} if path.is_file() else {}


def held_out(run: rlalign.Run) -> dict[str, dict[str, float]]:
    """Return the mean reward and its components before and after training."""
    evaluations = {"before": run.comparison.before, "after": run.comparison.after}
    excluded = ("kl", "fluency")
    return {k: {m: round(e.mean(m), 4) for m in e.metrics if m not in excluded} for k, e in evaluations.items()}


def curve(run: rlalign.Run) -> list[float]:
    """Return the training reward as means over POINTS equal pieces of the run."""
    rewards = np.array([np.nan if r is None else r for r in run.metrics["reward/mean"]])
    return [round(float(np.nanmean(piece)), 4) for piece in np.array_split(rewards, min(POINTS, len(rewards)))]


def signal_rate(env: str, plan: Plan, seed: int, prompts: int = 64) -> float:
    """Return the share of groups of 8 samples with nonzero reward variance, under the untrained policy."""
    config = update(default_config(env=env, policy=plan.policy, algorithm="grpo"), {"seed": seed})
    policy, mdp = build_policy(config, build_mdp(config))
    size, rates = config.rollout.group_size, []
    stream, env_rows = TaskStream(mdp.source, "train", seed=seed), TokenVectorEnv(mdp, 8 * size)
    generator = torch.Generator().manual_seed(seed)
    policy.begin_rollout()
    with torch.no_grad():
        for start in range(0, prompts, 8):
            rollout = collect(
                env_rows, make_sampler("decode", policy), stream.next(8), group_size=size,
                sampling=config.rollout.sampling, generator=generator, seed=start,
            )  # fmt: skip
            rates.append(float(has_reward_variance(rollout).double().mean()))
    return round(float(np.mean(rates)), 4)


# ---- cells on disk ----


@contextmanager
def locked():
    """Exclude other processes from the results while the context is open."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / ".environments.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read() -> dict[str, Any]:
    """Return the stored cells."""
    path = RESULTS / "environments.json"
    return json.loads(path.read_text())["cells"] if path.is_file() else {}


def store(key: str, result: dict[str, Any]) -> None:
    """Add a cell to the stored ones."""
    with locked():
        write("environments", {"cells": dict(sorted({**read(), key: result}.items()))})


# ---- tables and figure ----


def summary(cells: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return environment -> means over seeds, and the number of seeds in which it learns."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, result in cells.items():
        groups.setdefault(key.rpartition("/")[0], []).append(result)

    def mean(rows: list[dict[str, Any]], name: str) -> float | None:
        values = [row[name]["reward"] for row in rows if row[name]]
        return float(np.mean(values)) if values else None

    return {
        name: {
            "seeds": len(rows),
            "signal": float(np.mean([row["signal"] for row in rows])),
            **{stage: mean(rows, stage) for stage in ("untrained", "warm", "trained")},
            "learns": sum(row["learns"] for row in rows),
            "seconds": float(np.mean([row["seconds"] for row in rows])),
            "plan": rows[0]["plan"],
            "prompts": rows[0]["prompts"],
            "alarms": Counter(name for row in rows for name in row["alarms"]),
            "ended": Counter(name for row in rows for name, held in row["alarms"].items() if held[-1][1] is not None),
            "curves": [row["curve"] for row in rows],
        }
        for name, rows in groups.items()
    }


def draw(cells: dict[str, Any], path: Path) -> None:
    """Draw a panel per environment: the curve of each seed, and the held-out reward before training as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = summary(cells)
    columns = 5
    lines = -(-len(rows) // columns)  # rounded up
    figure, axes = plt.subplots(lines, columns, figsize=(12, 1.9 * lines), squeeze=False, layout="constrained")
    for panel, (name, row) in zip(axes.flat, rows.items(), strict=False):
        steps = row["plan"]["steps"]
        for rewards in row["curves"]:
            panel.plot(
                np.linspace(steps / len(rewards), steps, len(rewards)), rewards, color="#1f77b4", lw=1, alpha=0.8
            )
        panel.axhline(row["untrained"], color="#888888", lw=1, ls=":")
        if row["warm"] is not None:
            panel.axhline(row["warm"], color="#d9822b", lw=1, ls="--")
        panel.set_title(f"{short(name)}  ({row['learns']}/{row['seeds']}, signal {row['signal']:.2f})", fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in axes.flat[len(rows) :]:
        panel.axis("off")
    figure.supxlabel("steps of 128 samples", fontsize=8)
    figure.supylabel("reward", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def results_table(cells: dict[str, Any]) -> str:
    """Return the table of measurements, in Markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    def plan(row: dict[str, Any]) -> str:
        warm = f"{row['plan']['warm']} + " if row["plan"]["warm"] else ""
        return f"{row['plan']['policy']}, {warm}{row['plan']['steps']} steps"

    def raised(row: dict[str, Any]) -> str:
        ended = {name: f", ended in {n}" for name, n in row["ended"].items()}
        return "; ".join(f"{name} in {n}{ended.get(name, '')}" for name, n in sorted(row["alarms"].items()))

    rows = [
        [
            short(name), plan(row), number(row["signal"]), str(row["prompts"]), number(row["untrained"]),
            number(row["warm"]), number(row["trained"]), f"{row['learns']} of {row['seeds']}", raised(row),
            f"{row['seconds']:.0f}",
        ]
        for name, row in summary(cells).items()
    ]  # fmt: skip
    head = ("environment", "policy", "signal", "prompts", "untrained", "warm start", "trained", "learns", "alarms")
    return table((*head, "CPU s per seed"), rows)


def parts() -> Parts:
    """Return the table of the page, and its machine."""
    stored = json.loads((RESULTS / "environments.json").read_text(encoding="utf-8"))
    texts = {"results": results_table(stored["cells"]), "machine": f"Machine: {described(stored['machine'])}."}
    return {DOCS / "results" / "environments.md": texts}


def built_in() -> list[str]:
    """Return the ids of the built-in environments."""
    return [name for name in ENVS if name.startswith("rlalign/")]


def main() -> None:
    """Run the missing cells, then write the figure and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="*", default=[], help="names, such as sort; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the plan's steps")
    parser.add_argument("--again", action="store_true", help="repeat finished cells")
    parser.add_argument("--draw", action="store_true", help="only write the figure and the page")
    args = parser.parse_args()
    names = [find_env(name).id for name in args.envs] or built_in()
    cells = [(seed, name) for seed in range(args.seeds) for name in names]
    for seed, name in [] if args.draw else cells:
        plan = PLANS.get(short(name), Plan())
        plan = replace(plan, steps=args.steps) if args.steps else plan
        key = f"{name}/{seed}"
        if key in read() and not args.again:
            continue
        try:
            result = cell(name, plan, seed)
        except MissingExtraError as error:
            print(f"{key}: skipped: {error}", flush=True)
            continue
        store(key, result)
        rewards = {k: result[k]["reward"] if result[k] else None for k in ("untrained", "warm", "trained")}
        print(key, f"signal {result['signal']:.2f}", rewards, result["learns"], f"{result['seconds']} s", flush=True)
    if args.draw or not args.envs:
        with locked():
            draw(read(), DOCS / "images" / "environments.png")
            fill(parts())


if __name__ == "__main__":
    main()

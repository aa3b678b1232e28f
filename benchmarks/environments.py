"""Does a small policy learn in each environment? Held-out reward before and after, over seeds, with a curve.

    python benchmarks/environments.py                                  # every environment, 3 seeds
    python benchmarks/environments.py --envs sort wordle --seeds 5     # some, and more seeds
    python benchmarks/environments.py --draw                           # only docs/environments.png and .md

For each environment and seed (a cell): the untrained policy and, where the plan says so, a warm start (steps with an
interleaved supervised update on gold turns) are measured on held-out prompts; then the policy is trained and measured
again on the same prompts, and the alarms that its run raised are kept. The signal rate is the share of groups of 8
samples of one prompt whose rewards differ, before any training: where it is 0 no group baseline can learn. A cell
"learns" when the paired 95 % interval of its last training's gain lies above 0. Seconds are of the CPU, one core.
Finished cells stand in benchmarks/results/environments.json and are not run again (--again runs them); several
processes may work at once.
"""

from __future__ import annotations

import argparse
import fcntl
import inspect
import json
import re
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, write
from pages import fill, table

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.envs.registration import find_env, make_mdp
from rlalign.envs.task_sources import SPLITS, TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import MissingExtraError
from rlalign.policies.factory import make_sampler
from rlalign.registry import ENVS
from rlalign.rollout.collect import collect
from rlalign.rollout.dynamic_sampling import has_reward_variance

DOCS = Path(__file__).parents[1] / "docs"
POINTS = 40  # of a curve
HELD_OUT = {"evaluation__prompts": 64, "evaluation__samples": 8}


@dataclass(frozen=True)
class Plan:
    """How an environment is trained here.

    Attributes:
        policy: from scratch.
        steps: of policy gradient, 128 samples each.
        warm: steps with a supervised update before them; 0 where the reward is dense enough to begin with.
        spec: arguments of the environment, as in `reasoning?task=gcd`.
        settings: other settings of the run.
        warm_settings: settings of the steps before it alone.
    """

    policy: str = "gru"
    steps: int = 200
    warm: int = 0
    spec: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    warm_settings: dict[str, Any] = field(default_factory=dict)


def entropy(coef: float) -> dict[str, Any]:
    """A bonus for entropy: without it a policy settles for an answer that is right now and then."""
    return {"objective__regularizer__entropy_coef": coef}


FEW = {"rollout__prompts": 4, "evaluation__prompts": 8, "evaluation__samples": 2}  # slow games without signal
READS = Plan(warm=100, steps=200, settings=entropy(0.05))  # what to say stands in the prompt
PLANS: dict[str, Plan] = {
    **dict.fromkeys(("Constrained", "Entities", "Events"), READS),
    "Summarise": replace(READS, steps=300),
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
    return name.rpartition("/")[2].removesuffix("-v0")


def cell(name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Measure one environment with one seed."""
    env = name + (f"?{plan.spec}" if plan.spec else "")
    common = {**HELD_OUT, **plan.settings, "seed": seed, "quiet": True}
    began = time.process_time()
    found: dict[str, Any] = {"plan": asdict(plan), "signal": signal_rate(env, plan, seed)}
    scratch = default_config(env=env, policy=plan.policy, algorithm="grpo")
    with tempfile.TemporaryDirectory() as folder:
        policy = plan.policy
        if plan.warm:
            warm = rlalign.train(
                env, policy, config=replace(scratch, steps=plan.warm), output=f"{folder}/warm",
                supervised__align_interval=1, **common | plan.warm_settings,
            )  # fmt: skip
            policy = f"{folder}/warm/policy"
            found |= {"untrained": held_out(warm)["before"], "warm_curve": curve(warm)}
        run = rlalign.train(
            env, config=replace(scratch, policy=policy, steps=plan.steps), output=f"{folder}/run", **common
        )
        gain = run.comparison.differences["reward"]
        measured = held_out(run)
        found |= {"untrained": measured["before"], "warm": None} if not plan.warm else {"warm": measured["before"]}
        found |= {"trained": measured["after"], "curve": curve(run), "gain": [gain.mean, gain.low, gain.high]}
        found |= {"prompts": gain.n, "alarms": raised(run)}
    return {**found, "learns": gain.low > 0, "seconds": round(time.process_time() - began, 1)}


def raised(run: rlalign.Run) -> dict[str, list[list[int | None]]]:
    """The alarms of a run, and from which step to which each held (None: to the end)."""
    path = run.folder / "report" / "alarms.json"
    return {name: alarm["held"] for name, alarm in json.loads(path.read_text()).items()} if path.is_file() else {}


def held_out(run: rlalign.Run) -> dict[str, dict[str, float]]:
    """Mean reward and components before and after."""
    both = {"before": run.comparison.before, "after": run.comparison.after}
    left_out = ("kl", "fluency")
    return {k: {m: round(e.mean(m), 4) for m in e.metrics if m not in left_out} for k, e in both.items()}


def curve(run: rlalign.Run) -> list[float]:
    """The training reward as means over POINTS equal pieces of the run."""
    rewards = np.array([np.nan if r is None else r for r in run.metrics["reward/mean"]])
    return [round(float(np.nanmean(piece)), 4) for piece in np.array_split(rewards, min(POINTS, len(rewards)))]


def signal_rate(env: str, plan: Plan, seed: int, prompts: int = 64) -> float:
    """The share of groups of 8 samples whose rewards differ, under the untrained policy."""
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
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / ".environments.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read() -> dict[str, Any]:
    path = RESULTS / "environments.json"
    return json.loads(path.read_text())["cells"] if path.is_file() else {}


def keep(key: str, result: dict[str, Any]) -> None:
    with locked():
        write("environments", {"cells": dict(sorted({**read(), key: result}.items()))})


# ---- what is shown ----


def summary(cells: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per environment: means over seeds, and in how many of them it learns."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, found in cells.items():
        groups.setdefault(key.rpartition("/")[0], []).append(found)

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
    """Small multiples: the curve of each seed, untrained and warm-started held-out reward as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = summary(cells)
    columns = 5
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(12, 1.9 * lines), squeeze=False, layout="constrained")
    for place, (name, row) in zip(axes.flat, rows.items(), strict=False):
        steps = row["plan"]["steps"]
        for found in row["curves"]:
            place.plot(np.linspace(steps / len(found), steps, len(found)), found, color="#1f77b4", lw=1, alpha=0.8)
        place.axhline(row["untrained"], color="#888888", lw=1, ls=":")
        if row["warm"] is not None:
            place.axhline(row["warm"], color="#d9822b", lw=1, ls="--")
        place.set_title(f"{short(name)}  ({row['learns']}/{row['seeds']}, signal {row['signal']:.2f})", fontsize=8)
        place.tick_params(labelsize=7)
    for place in axes.flat[len(rows) :]:
        place.axis("off")
    figure.supxlabel("steps of 128 samples", fontsize=8)
    figure.supylabel("reward", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def learnt(cells: dict[str, Any]) -> str:
    """The measured table, in Markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    def plan(row: dict[str, Any]) -> str:
        warm = f"{row['plan']['warm']} + " if row["plan"]["warm"] else ""
        return f"{row['plan']['policy']}, {warm}{row['plan']['steps']} steps"

    def raised(row: dict[str, Any]) -> str:
        passing = {name: f", passing in {n}" for name, n in row["ended"].items()}
        return "; ".join(f"{name} in {n}{passing.get(name, '')}" for name, n in sorted(row["alarms"].items()))

    rows = [
        [
            short(name), plan(row), number(row["signal"]), str(row["prompts"]), number(row["untrained"]),
            number(row["warm"]), number(row["trained"]), f"{row['learns']} of {row['seeds']}", raised(row),
            f"{row['seconds']:.0f}",
        ]
        for name, row in summary(cells).items()
    ]  # fmt: skip
    head = ("environment", "policy", "signal", "prompts", "untrained", "warm start", "trained", "learns", "alarms")
    return table((*head, "CPU s a seed"), rows)


def what_there_is(page: str) -> str:
    """The table of the registry, in Markdown; an environment whose package is not here keeps its row of the page."""
    rows = []
    for name in built_in():
        try:
            mdp = make_mdp(name)
        except MissingExtraError:
            stands = [line for line in page.splitlines() if line.startswith(f"| **{short(name)}**:")]
            rows += [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in stands]
            continue
        said = " ".join((inspect.getdoc(type(mdp)) or "").split("Args:")[0].split())
        data = re.search(r"Data: (.*?\.)(?= [A-Z]|$)", said)
        sizes = [mdp.source.size(split) for split in SPLITS]
        splits = "unbounded" if None in sizes else " / ".join(map(str, sizes))
        if not getattr(mdp.source, "distinct", True):
            splits += ", not disjoint: too few tasks"
        rewards = ", ".join(
            f"{weight:g} {spec.rpartition(':')[2].partition('?')[0]}" for spec, weight in mdp.rewards.items()
        )
        gold = "" if mdp.gold_score is None else f"{mdp.gold_score:g}"
        rows.append(
            [
                f"**{short(name)}**: {mdp.description}", str(mdp.max_turns),
                data.group(1).rstrip(".") if data else "", splits, rewards, gold,
            ]
        )  # fmt: skip
    return table(("environment", "turns", "data", "train / validation / test", "rewards", "gold"), rows)


def built_in() -> list[str]:
    return [name for name in ENVS if name.startswith("rlalign/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="*", default=[], help="names, such as sort; all when left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of each plan's")
    parser.add_argument("--again", action="store_true", help="run finished cells too")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    given = parser.parse_args()
    wanted = [find_env(name).id for name in given.envs] or built_in()
    cells = [(seed, name) for seed in range(given.seeds) for name in wanted]
    for seed, name in [] if given.draw else cells:
        plan = PLANS.get(short(name), Plan())
        plan = replace(plan, steps=given.steps) if given.steps else plan
        key = f"{name}/{seed}"
        if key in read() and not given.again:
            continue
        try:
            found = cell(name, plan, seed)
        except MissingExtraError as error:
            print(f"{key}: left out: {error}", flush=True)
            continue
        keep(key, found)
        told = {k: found[k]["reward"] if found[k] else None for k in ("untrained", "warm", "trained")}
        print(key, f"signal {found['signal']:.2f}", told, found["learns"], f"{found['seconds']} s", flush=True)
    if given.draw or not given.envs:
        with locked():
            draw(read(), DOCS / "environments.png")
            page = DOCS / "environments.md"
            fill(page, {"what": what_there_is(page.read_text(encoding="utf-8")), "learnt": learnt(read())})


if __name__ == "__main__":
    main()

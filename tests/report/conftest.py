"""A constructed study with every part that a report can show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rlalign.compare.results.schema import (
    BUDGETS,
    Aggregate,
    AlgorithmResult,
    Curve,
    EnvResult,
    Estimate,
    Failure,
    Manifest,
    Pair,
    Profile,
    Results,
    Sample,
    SettingDifference,
    Spread,
    ToThreshold,
    Tuning,
)  # fmt: skip

LEVELS = {"reinforce": 0.62, "rloo": 1.02, "grpo": 0.86, "ppo": 0.93, "trl:grpo": 0.84}
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>&amp;\x00\u202e\"'"


def estimate(value: float, half: float = 0.08) -> Estimate:
    return Estimate(value, value - half, value + half, "Student's t")


def algorithm_result(rng: np.random.Generator, level: float, seeds: int, scale: float) -> AlgorithmResult:
    step = list(range(0, 201, 10))
    tops = level * scale + rng.normal(0, 0.09 * scale, seeds)
    curves = []
    for top in tops:  # a saturating curve per seed, with noise
        reward = [0.05 * scale + (top - 0.05 * scale) * (1 - np.exp(-i / 60)) + rng.normal(0, 0.02) for i in step]
        kl = [0.0, *(1.2 + 4 * level * (1 - np.exp(-i / 80)) + rng.normal(0, 0.1) for i in step[1:])]
        budget = [i * 128.0 for i in step]
        tokens = [b * 4.6 for b in budget]
        curves.append(Curve(step, budget, tokens, [float(i) for i in step], [i * 0.021 for i in step], reward, kl))
    final = [[float(t + rng.normal(0, 0.1)) for _ in range(16)] for t in tops]
    start = [[0.05 * scale] * 16 for _ in tops]
    tau = np.linspace(0, 1.3 * scale, 60)
    share = (tops[:, None] > tau).mean(0)
    mean = float(np.mean(tops))
    to = ToThreshold([6400.0] * seeds, [True] * (seeds - 1) + [False], 6400.0, estimate(6800.0, 900.0))
    return AlgorithmResult(
        final=final, start=start, failed=[False] * seeds, mean=estimate(mean), iqm=estimate(mean + 0.01),
        median=Estimate(mean - 0.01, mean - 0.13, mean + 0.1, "order statistics"), gain=estimate(mean - 0.05 * scale),
        spread=Spread(0.09, 0.04, 0.11), metrics={"kl": estimate(4.2, 0.3), "length": estimate(4.6, 0.1)},
        curves=curves, auc={b: estimate(mean * 0.7) for b in BUDGETS}, auc_seeds={b: [0.6] * seeds for b in BUDGETS},
        to_threshold=dict.fromkeys(BUDGETS, to),
        profile=Profile(tau.tolist(), *(v.clip(0, 1).tolist() for v in (share, share - 0.12, share + 0.12))),
        at_equal_kl=estimate(mean * 0.9),
    )  # fmt: skip


def environment(seed: int, algorithms: list[str], seeds: int, scale: float) -> EnvResult:
    """Return constructed results of one environment; `scale` stretches its rewards."""
    rng = np.random.default_rng(seed)
    results = {a: algorithm_result(rng, LEVELS[a], seeds, scale) for a in algorithms}
    pairs = []
    for i, a in enumerate(algorithms):
        for b in algorithms[i + 1 :]:
            d = (LEVELS[a] - LEVELS[b]) * scale
            clear = abs(d) > 0.12 * scale
            winner = (a if d > 0 else b) if clear else None
            pairs.append(
                Pair(
                    a, b, estimate(d, 0.1 * scale), 0.0004 if clear else 0.21, 0.004 if clear else 0.63,
                    estimate(0.5 + d / (2 * scale), 0.1), 0.13, winner, {}, estimate(d * 0.8, 0.12), {},
                    f"{a} − {b} in words",
                )
            )  # fmt: skip
    completions = {a: ("cba" if LEVELS[a] > 0.9 else "cbb") for a in algorithms}
    samples = [
        Sample("abc>", 0, "ddaa", completions, {a: LEVELS[a] for a in algorithms}),
        Sample(HOSTILE, 1, HOSTILE, dict.fromkeys(algorithms, HOSTILE), dict.fromkeys(algorithms)),
        Sample("dc>", 0, "", dict.fromkeys(algorithms, "cd " * 400), dict.fromkeys(algorithms, 0.5)),
    ]
    return EnvResult(
        200, 128, ["abc>"] * 64, "test", "held-out reward", 0.5 * scale, "half the way to the best algorithm's mean",
        3.0, (0.05, 1.2), results, pairs, samples,
    )  # fmt: skip


def make_study(seeds: int = 10) -> Results:
    """Return the constructed study of five algorithms on three environments."""
    names = list(LEVELS)
    envs = {
        "reverse": environment(0, names, seeds, 1.0),
        "sentiment": environment(1, names, seeds, 0.6),
        "copy-with-a-long-name": environment(2, names, seeds, 1.4),
    }
    overall = {a: estimate(LEVELS[a]) for a in names}
    aggregate = Aggregate(overall, overall, overall, {a: envs["reverse"].algorithms[a].profile for a in names})
    crashed = Failure("reverse", "grpo", 3, "cells/reverse/grpo/seed-3", f"FaultError: not finite {HOSTILE}")
    space = {"learner.lr": "log:1e-4:1e-2"}
    best = {"learner.lr": "0.003"}
    axes = ["ema", "leave_one_out", "group_mean", "value", "group_mean"]
    return Results(
        title="Five algorithms on three environments",
        verdict=[
            "On reverse, rloo ends above reinforce, grpo and trl:grpo: its held-out reward is higher by 0.16 to 0.40 "
            "(95 % CI, Holm-corrected p < 0.01).",
            "Between rloo and ppo no difference can be claimed.",
            "A true difference below 0.13 could have gone unseen.",
        ],
        warnings=["1 of 150 cells failed and is scored as the initial policy: reverse, grpo, seed 3"],
        algorithms=names,
        seeds=list(range(seeds)),
        environments=envs,
        aggregate=aggregate,
        differences=[
            SettingDifference("objective.baseline", True, dict(zip(names, axes, strict=True))),
            SettingDifference("learner.epochs", False, {a: "4" if a == "ppo" else "1" for a in names}),
        ],
        failures=[crashed],
        excluded=[replace(crashed, seed=4, reason="another budget: 100 steps, the others have 200")],
        tuning=[Tuning("reverse", a, 20, 6, 0, 1_000_000, space, best, 0.8, 0.35) for a in names],
        manifest=Manifest(
            "rlalign compare --algorithms reinforce,rloo,grpo,ppo,trl:grpo --envs reverse,sentiment --seeds 10 "
            "--output runs/cmp",
            "2026-01-01T12:00:00Z", "tiny", {"rlalign": "0.1.0", "torch": "2.13.0", "trl": "1.16.0"},
            {"cpu": "a processor", "cores": "2", "device": "cpu"}, "0123abcdef", "f" * 64, 5123.0,
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def study() -> Results:
    return make_study()


@pytest.fixture(scope="session")
def study_of() -> Callable[[int], Results]:
    """Return a function: number of seeds -> the study."""
    return make_study

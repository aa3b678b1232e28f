"""Tables of docs/results/preference_road.md from benchmarks/results/preference_road.json and its SmolLM2 companion.

python benchmarks/preference_road_page.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import RESULTS, described
from pages import DOCS, Parts, fill, table
from scipy import stats

from rlalign.feedback.overoptimization.fits import SeedFit, fit_seeds

PAGE = DOCS / "results" / "preference_road.md"
KINDS = {
    "temperature": "temperature 0.25",
    "flips": "15 % flipped",
    "careless": "one careless of three",
    "biases": "left side and length",
    "tastes": "different tastes",
}
POLICIES = {
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dpo": "trl:dpo",
    "best_of_n": "best of 16",
}
USUAL = 500
"""Votes of the cells with all algorithms."""


def parts() -> Parts:
    """Return the tables of the page."""
    stored = json.loads((RESULTS / "preference_road.json").read_text(encoding="utf-8"))
    groups = grouped(whole(stored["cells"]))
    seconds = sum(cell["cpu_seconds"] for cell in stored["cells"]) / 60
    least = min(map(len, groups.values()))
    texts = {
        "machine": (
            f"Seeds: {least} of each kind of noise and number of votes. Machine: {described(stored['machine'])}; "
            f"{seconds:.0f} minutes of processor time."
        ),
        "accuracy": accuracy(groups),
        "gold": gold(groups),
        "claims": claims(groups),
        "kl": distances(groups),
        "turns": turns(groups),
    }
    small = RESULTS / "preference_road_smollm2.json"
    texts["smollm2"] = "Not measured yet."
    if small.is_file():
        texts["smollm2"] = smollm2(json.loads(small.read_text(encoding="utf-8")))
    return {PAGE: texts}


def whole(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells of the seeds that have all cells: an interrupted study ends in a part of a seed."""
    keys = {(cell["kind"], cell["votes"]) for cell in cells}
    counts = Counter(cell["seed"] for cell in cells)
    return [cell for cell in cells if counts[cell["seed"]] == len(keys)]


Groups = dict[tuple[str, int], list[dict[str, Any]]]


def grouped(cells: Sequence[dict[str, Any]]) -> Groups:
    """Return the cells of each kind and number of votes, by seed."""
    keys = [(kind, votes) for kind in KINDS for votes in sorted({cell["votes"] for cell in cells})]
    found = {key: [c for c in cells if (c["kind"], c["votes"]) == key] for key in keys}
    return {key: sorted(members, key=lambda cell: cell["seed"]) for key, members in found.items() if members}


def accuracy(groups: Groups) -> str:
    """Return the table of pairs and accuracies."""
    heads = ["noise", "votes", "pairs", "held out", "linear", "transformer", "gold", "order of gold"]
    rows = []
    for (kind, votes), cells in groups.items():
        counts = [f"{np.mean([cell[name] for cell in cells]):.0f}" for name in ("pairs", "held_out")]
        shares = [
            interval([cell[name] for cell in cells], most=1.0) if name in cells[0] else ""
            for name in ("accuracy", "transformer", "gold_accuracy", "agreement")
        ]
        rows.append([KINDS[kind], str(votes), *counts, *shares])
    return table(heads, rows)


def gold(groups: Groups) -> str:
    """Return the table of gold before, and of its change by each algorithm."""
    rows = []
    for (kind, votes), cells in groups.items():
        before = [cell["policies"]["rloo"]["gold"][0] for cell in cells]
        changes = [interval(c, sign="+") if (c := gains(cells, name)) else "" for name in POLICIES]
        rows.append([KINDS[kind], str(votes), f"{np.mean(before):.2f}", *changes])
    return table(["noise", "votes", "before", *POLICIES.values()], rows)


def gains(cells: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the change of gold by a policy at each seed; none for a policy that was not trained."""
    found = [cell["policies"][name]["gold"] for cell in cells if name in cell["policies"]]
    return [after - before for before, after in found]


def claims(groups: Groups) -> str:
    """Return in which cases gold improved and in which it did not, and the single runs in which it fell."""
    outcomes: dict[str, list[str]] = {"improved": [], "not": []}
    fell: list[str] = []
    runs = 0
    for (kind, votes), cells in groups.items():
        for name, label in POLICIES.items():
            changes = gains(cells, name)
            runs += len(changes)
            if falls := sum(change < 0 for change in changes):
                fell.append(f"{falls} with {label}, {votes} votes, {KINDS[kind]}")
            if len(changes) > 1:
                key = "improved" if bounds(changes)[0] > 0 else "not"
                outcomes[key].append(f"{label} with {votes} votes, {KINDS[kind]}")
    total = sum(map(len, outcomes.values()))
    text = f"Gold improved, with an interval above 0, in {len(outcomes['improved'])} of {total} cases."
    if outcomes["not"]:
        text += f" It did not with: {'; '.join(outcomes['not'])}."
    return f"{text} Of the {runs} single runs, gold fell in {'; '.join(fell) or 'none'}."


def distances(groups: Groups) -> str:
    """Return the table of the KL of each trained policy, with 500 votes."""
    trained = [name for name in POLICIES if name != "best_of_n"]
    rows = [
        [KINDS[kind], *(f"{np.mean([c['policies'][name]['kl'][1] for c in cells]):.1f}" for name in trained)]
        for (kind, votes), cells in groups.items()
        if votes == USUAL
    ]
    return table(["noise", *(POLICIES[name] for name in trained)], rows)


def turns(groups: Groups) -> str:
    """Return the table of over-optimization: the KL at which gold is largest, and the ends of the runs without KL."""
    heads = [
        "noise", "proxy", "gold", "gold is largest at a KL of", "gold there", "KL at the end", "gold at the end",
        "change of the proxy after the turn",
    ]  # fmt: skip
    rows = []
    for (kind, votes), cells in groups.items():
        if votes != USUAL:
            continue
        points = [np.array(cell["policies"]["free"]["points"]) for cell in cells]  # [K, (step, KL, proxy, gold)]
        fits = {
            name: fit_seeds("rl", [(np.sqrt(np.maximum(p[:, 1], 0)), p[:, column]) for p in points])
            for name, column in (("proxy", 2), ("gold", 3))
        }
        base = np.mean([cell["policies"]["free"]["gold"][0] for cell in cells])
        best = [p[int(np.argmax(p[:, 3]))] for p in points]
        ends = [p[-1] for p in points]
        rows.append([
            KINDS[kind], fits["proxy"].turn.outcome, fits["gold"].turn.outcome, _kl(fits["gold"]),
            f"{base + np.mean([b[3] for b in best]):.2f}", f"{np.mean([e[1] for e in ends]):.0f}",
            f"{base + np.mean([e[3] for e in ends]):.2f}",
            interval([e[2] - b[2] for e, b in zip(ends, best, strict=True)], sign="+"),
        ])  # fmt: skip
    return table(heads, rows)


def _kl(fit: SeedFit) -> str:
    """Return the KL of the turning point with its interval over seeds, and R² of the fit."""
    turn = fit.turn
    if turn.outcome != "turned":
        return "–"
    high = "beyond" if np.isinf(turn.high) else f"{turn.high**2:.1f}"
    return f"{turn.d**2:.1f} [{turn.low**2:.1f},\u00a0{high}], R² {fit.fit.r2:.2f}"


def interval(values: Sequence[float], sign: str = "", most: float = np.inf) -> str:
    """Return the mean and the 95 % t-interval over seeds, cut at the largest possible value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{sign}.2f}"
    low, high = (f"{round(bound, 2) + 0.0:{sign}.2f}" for bound in np.minimum(bounds(values), most))  # no -0.00
    return f"{round(mean, 2) + 0.0:{sign}.2f} [{low},\u00a0{high}]"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def smollm2(stored: dict[str, Any]) -> str:
    """Return the table of the run with SmolLM2."""

    def shown(estimate: dict[str, float], sign: str = "") -> str:
        value, low, high = (f"{estimate[name]:{sign}.2f}" for name in ("value", "low", "high"))
        return f"{value} [{low},\u00a0{high}]"

    heads = ["", "learning rate", "proxy before, after", "gold before, after", "change of gold", "KL, nats"]

    def row(name: str, rate: str, found: dict[str, Any]) -> list[str]:
        both = [f"{m['before']:.2f}, {m['after']:.2f}" for m in found["metrics"].values()]
        return [name, rate, *both, shown(found["metrics"]["gold"], "+"), f"{found['kl']:.1f}"]

    steps = f"{stored['steps']} steps"
    rows = [row(f"RLOO, {steps}", "1e-3", stored)]
    rows += [row(f"trl:dpo, {steps}", f"{found['rate']:.0e}".replace("e-0", "e-"), found) for found in stored["dpo"]]
    minutes = ", ".join(f"{seconds / 60:.0f} for {name}" for name, seconds in stored["seconds"].items())
    text = (
        f"Of {stored['pairs']} pairs, {stored['held_out']} are held out. The reward model has an accuracy of "
        f"{shown(stored['accuracy'])} on them, and gold {stored['gold_accuracy']:.2f}. Minutes: {minutes} "
        f"({described(stored['machine'])}; other work ran beside it)."
    )
    return f"{text}\n\n{table(heads, rows)}"


if __name__ == "__main__":
    fill(parts())

"""What selection by uncertainty saves in votes, and whether weights remove its bias, in simulated studies.

    python benchmarks/feedback_selection.py [STUDIES [PART ...]]    # parts: strengths, win_rates, accuracy

`strengths`: pairs of several policies; votes until the widest 95 % interval of a difference of strengths is narrow
enough, with random selection and with the fit's information. `win_rates`: two policies and an ensemble's scores; bias,
error and coverage of win rates. `accuracy`: a linear reward model; votes until it orders held-out pairs correctly.
Batches, scores and weights are those of `rlalign feedback`. Writes benchmarks/results/feedback_selection.json; parts
that are not run keep their stored rows.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from typing import Any

import numpy as np
from machine import RESULTS, write

from rlalign.feedback.statistics import information
from rlalign.feedback.statistics.design import draw_batch
from rlalign.feedback.statistics.weighting import (
    batch_weights,
    effective_number,
    random_part,
    stratified_weights,
    weighted_mean,
)
from rlalign.types import BoolArray, FloatArray, IntArray

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 200
SHARE = 0.3
VOTES = 3
TIES = 0.3


class Selection:
    """The items of a study, and how they were selected."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.place = rng.random(n)
        self.batch = np.full(n, -1)
        self.probability = np.ones(n)
        self.random = np.zeros(n, bool)

    @property
    def pool(self) -> IntArray:
        """Items that no batch has selected."""
        return np.flatnonzero(self.batch < 0)

    @property
    def selected(self) -> BoolArray:
        """Whether a batch has selected an item."""
        return self.batch >= 0

    def extend(self, scores: FloatArray, size: int, share: float) -> IntArray:
        """Select a batch of the pool and return its items."""
        pool = self.pool
        drawn = draw_batch(self.place[pool], scores, size, share, self.rng)
        items = pool[drawn.items]
        self.batch[items] = self.batch.max() + 1
        self.probability[items], self.random[items] = drawn.probability, drawn.random
        return items

    def weights(self) -> FloatArray:
        """Return the weights of all batches."""
        return batch_weights(self.batch, self.probability, self.selected)


# ---- strengths of several policies ----

BOARDS = {
    "2 policies, gap 0.5": [0.25, -0.25],
    "4 policies, equal": [0.0] * 4,
    "4 policies, gaps 0.5": [0.75, 0.25, -0.25, -0.75],
    "4 policies, one far ahead (3)": [2.25, -0.75, -0.75, -0.75],
    "8 policies, gaps 0.25": list(np.arange(8) * 0.25 - 0.875),
    "8 policies, gaps 0.75": list(np.arange(8) * 0.75 - 2.625),
}


ARMS = ("random", "fit", "fit, weights over all pairs")


def strengths_study(
    theta: FloatArray, arm: str, seed: int, prompts: int = 150
) -> tuple[list[tuple[int, float, float]], float]:
    """Return votes, widest and mean half-width of the intervals of differences after each batch, and the last error of
    the win rates of the pairs, in the mean over the pairs."""
    rng = np.random.default_rng(seed)
    k = len(theta)
    first, second = (np.repeat(x[None], prompts, 0).ravel() for x in np.triu_indices(k, 1))
    prompt = np.repeat(np.arange(prompts), k * (k - 1) // 2)
    taste = rng.normal(0, 0.5, (prompts, k))  # a policy is better on some prompts
    delta = theta[first] - theta[second] + taste[prompt, first] - taste[prompt, second]
    probabilities = np.stack(information.outcome_probabilities(delta, TIES), 1)
    counts = rng.multinomial(VOTES, probabilities)  # wins, losses, ties of the first policy
    selection = Selection(len(first), rng)
    size = max(10, len(first) // 20)
    curve = []
    for _ in range(12):
        chosen = selection.selected
        wins, ties = np.zeros((k, k)), np.zeros((k, k))
        np.add.at(wins, (first[chosen], second[chosen]), counts[chosen, 0])
        np.add.at(wins, (second[chosen], first[chosen]), counts[chosen, 1])
        np.add.at(ties, (first[chosen], second[chosen]), counts[chosen, 2])
        pool = selection.pool
        available = np.zeros((k, k), np.int64)
        np.add.at(available, (first[pool], second[pool]), 1)
        scores = np.ones(len(pool))
        if arm != "random":
            strengths, nu = information.posterior_mode(wins, ties)
            votes = np.triu(wins + wins.T + ties, 1)
            wanted = information.allocate(strengths, nu, votes, available, size, VOTES)
            scores = wanted[first[pool], second[pool]] / available[first[pool], second[pool]]
        selection.extend(scores, size, 1.0 if arm == "random" else SHARE)
        chosen, stratum = selection.selected, first * k + second
        weights = (
            stratified_weights(selection.batch, selection.probability, chosen, stratum, np.ones(len(first), bool))
            if arm == "fit"
            else selection.weights()
        )
        errors = difference_errors(first, second, prompt, counts, weights, k)
        curve.append((int(selection.selected.sum()) * VOTES, 1.96 * errors.max(), 1.96 * float(errors.mean())))
    score = (counts[:, 0] + counts[:, 2] / 2) / VOTES
    expected = probabilities[:, 0] + probabilities[:, 2] / 2
    wrong = [
        np.average(score[stratum == s], weights=weights[stratum == s]) - expected[stratum == s].mean()
        for s in np.unique(stratum)
    ]
    return curve, float(np.mean(wrong))


def difference_errors(
    first: IntArray, second: IntArray, prompt: IntArray, counts: IntArray, weights: FloatArray, k: int
) -> FloatArray:
    """Return the standard errors, clustered by prompt, of all differences of strengths of a weighted Davidson fit."""
    used = weights > 0
    first, second, prompt, counts, weights = (x[used] for x in (first, second, prompt, counts, weights))
    wins, ties = np.zeros((k, k)), np.zeros((k, k))
    np.add.at(wins, (first, second), weights * counts[:, 0])
    np.add.at(wins, (second, first), weights * counts[:, 1])
    np.add.at(ties, (first, second), weights * counts[:, 2])
    theta, nu = information.posterior_mode(wins, ties)
    delta = theta[first] - theta[second]
    win, loss, _ = information.outcome_probabilities(delta, nu)
    score = weights * ((counts[:, 0] - counts[:, 1]) / 2 - counts.sum(1) * (win - loss) / 2)
    slope = np.zeros((prompt.max() + 1, k))
    np.add.at(slope, (prompt, first), score)
    np.add.at(slope, (prompt, second), -score)
    votes = np.zeros((k, k))
    np.add.at(votes, (first, second), weights * counts.sum(1))
    bread = information.strength_covariance(theta, nu, votes)
    influence = slope @ bread
    g = len(np.unique(prompt))
    covariance = influence.T @ influence * g / max(g - 1, 1)
    i, j = np.triu_indices(k, 1)
    return np.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])


def votes_to_reach(curve: list[tuple[int, float, float]], column: int, width: float) -> float:
    """Return the votes at which a width is reached, between two batches by 1 / width²; infinite if it is not."""
    before: tuple[float, float] | None = None
    for row in curve:
        precision = 1 / max(row[column], 1e-9) ** 2
        if row[column] <= width:
            if before is None:
                return float(row[0])
            votes, lower = before
            return votes + (row[0] - votes) * (1 / width**2 - lower) / max(precision - lower, 1e-12)
        before = (float(row[0]), precision)
    return math.inf


def strengths() -> list[dict[str, Any]]:
    rows = []
    for name, theta in BOARDS.items():
        studies = {arm: [strengths_study(np.array(theta), arm, seed) for seed in range(STUDIES)] for arm in ARMS}
        curves = {arm: [curve for curve, _ in of_arm] for arm, of_arm in studies.items()}
        bias = {arm: np.array([error for _, error in of_arm]) for arm, of_arm in studies.items()}
        for column, measure in ((1, "widest"), (2, "mean")):
            # the width that random selection reaches with three quarters of the votes, on average
            width = float(np.mean([curve[8][column] for curve in curves["random"]]))
            for arm in ARMS[1:]:
                random = np.array([votes_to_reach(c, column, width) for c in curves["random"]])
                active = np.array([votes_to_reach(c, column, width) for c in curves[arm]])
                both = np.isfinite(random) & np.isfinite(active)
                ratio = 1 - active[both] / random[both]
                rows.append(
                    {
                        "part": "strengths", "board": name, "arm": arm, "interval": measure, "half_width": width,
                        "votes_random": float(random[both].mean()), "votes": float(active[both].mean()),
                        "saved": float(ratio.mean()), "saved_se": float(ratio.std(ddof=1) / math.sqrt(both.sum())),
                        "bias": float(bias[arm].mean()), "bias_se": float(bias[arm].std(ddof=1) / math.sqrt(STUDIES)),
                        "reached": int(both.sum()), "studies": STUDIES,
                    }
                )  # fmt: skip
                keys = ("board", "arm", "interval", "saved", "saved_se", "bias", "bias_se", "reached")
                print({k: round(v, 4) if isinstance(v := rows[-1][k], float) else v for k in keys})
    return rows


# ---- win rates under selection by an ensemble ----


def win_rates() -> list[dict[str, Any]]:
    """Two policies: on a part of the prompts the first one wins nearly always, the others are near-ties."""
    studies = 10 * STUDIES
    truth = 0.3 * 0.95 + 0.7 * 0.5
    names = ("all votes, random selection", "all votes, no weights", "random part", "weights of all batches",
             "inverse of the batch's probability")  # fmt: skip
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        n = 1000
        p = np.where(rng.random(n) < 0.3, 0.95, rng.uniform(0.35, 0.65, n))
        y = rng.binomial(VOTES, p) / VOTES
        members = np.clip(p[None] + rng.normal(0, 0.1, (4, n)), 0.01, 0.99)
        scores = information.ensemble_disagreement(members)
        items = np.arange(n)
        for arm, share in (("random", 1.0), ("ensemble", SHARE)):
            selection = Selection(n, np.random.default_rng((seed, 1)))
            for _ in range(6):
                selection.extend(scores[selection.pool], 50, share)
            chosen = selection.selected
            if arm == "random":
                results[names[0]].append((*weighted_mean(y, chosen.astype(float), items), float(chosen.sum())))
                continue
            part = random_part(selection.place, selection.random).astype(float)
            inverse = chosen / selection.probability
            for name, weights in zip(
                names[1:], (chosen.astype(float), part, selection.weights(), inverse), strict=True
            ):
                results[name].append((*weighted_mean(y, weights, items), effective_number(weights)))
    rows = []
    for name in names:
        values = np.array(results[name])
        error = values[:, 0] - truth
        covered = np.abs(error) <= 1.96 * values[:, 1]
        rows.append(
            {
                "part": "win_rates", "estimate": name, "bias": float(error.mean()),
                "bias_se": float(error.std(ddof=1) / math.sqrt(studies)), "rmse": float(np.sqrt((error**2).mean())),
                "mean_se": float(values[:, 1].mean()), "coverage": float(covered.mean()),
                "coverage_se": float(math.sqrt(covered.mean() * (1 - covered.mean()) / studies)),
                "effective_items": float(values[:, 2].mean()), "items": 300, "studies": studies,
            }
        )  # fmt: skip
        print({key: round(v, 4) if isinstance(v, float) else v for key, v in rows[-1].items()})
    return rows


# ---- held-out accuracy of a reward model ----


def logistic(x: FloatArray, y: FloatArray, ridge: float = 1.0) -> FloatArray:
    """Return the coefficients of a ridge logistic regression, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(w))
        w = w + np.linalg.solve(hessian, x.T @ (y - p) - ridge * w)
    return w


def accuracy_study(arm: str, noise: float, seed: int) -> list[tuple[int, float]]:
    """Return votes and accuracy on held-out pairs after each batch; a pair gets one vote."""
    rng = np.random.default_rng(seed)
    d, n, size = 20, 2000, 40
    w = rng.normal(size=d)
    w *= 3.0 / (noise * np.linalg.norm(w))
    x, held_out = rng.normal(size=(n, d)), rng.normal(size=(4000, d))
    y = (rng.random(n) < 1 / (1 + np.exp(-x @ w))).astype(float)
    selection = Selection(n, rng)
    curve = []
    for number in range(18):
        pool, chosen = selection.pool, np.flatnonzero(selection.selected)
        scores = np.ones(len(pool))
        if arm != "random" and number:
            draws = [rng.choice(chosen, len(chosen)) for _ in range(5)]
            p = np.array([1 / (1 + np.exp(-x[pool] @ logistic(x[i], y[i]))) for i in draws])
            scores = information.ensemble_disagreement(p if arm == "ensemble, probabilities" else p.round())
        selection.extend(scores, size, 1.0 if arm == "random" or number == 0 else SHARE)
        chosen = np.flatnonzero(selection.selected)
        right = (held_out @ logistic(x[chosen], y[chosen]) > 0) == (held_out @ w > 0)
        curve.append((len(chosen), float(right.mean())))
    return curve


def accuracy() -> list[dict[str, Any]]:
    rows = []
    studies = max(2, STUDIES // 2)
    arms = ("random", "ensemble, decisions", "ensemble, probabilities")
    for noise in (0.5, 1.0, 3.0):
        curves = {arm: [accuracy_study(arm, noise, seed) for seed in range(studies)] for arm in arms}
        means = {arm: np.array(c)[:, :, 1].mean(0) for arm, c in curves.items()}
        target = float(means["random"][11])
        for arm in arms[1:]:
            needed = [next((v for v, a in curve if a >= target), math.inf) for curve in curves[arm]]
            random = [next((v for v, a in curve if a >= target), math.inf) for curve in curves["random"]]
            both = np.isfinite(needed) & np.isfinite(random)
            ratio = 1 - np.array(needed)[both] / np.array(random)[both]
            gain = np.array([a[11][1] - b[11][1] for a, b in zip(curves[arm], curves["random"], strict=True)])
            rows.append(
                {
                    "part": "accuracy", "noise": noise, "arm": arm, "target": target,
                    "votes_random": float(np.array(random)[both].mean()), "votes": float(np.array(needed)[both].mean()),
                    "saved": float(ratio.mean()), "saved_se": float(ratio.std(ddof=1) / math.sqrt(both.sum())),
                    "gain_at_480": float(gain.mean()), "gain_se": float(gain.std(ddof=1) / math.sqrt(studies)),
                    "reached": int(both.sum()), "studies": studies,
                }
            )  # fmt: skip
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in rows[-1].items()})
    return rows


PARTS = {"strengths": strengths, "win_rates": win_rates, "accuracy": accuracy}


def main() -> None:
    chosen = sys.argv[2:] or list(PARTS)
    path = RESULTS / "feedback_selection.json"
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    new = list(itertools.chain.from_iterable(PARTS[part]() for part in chosen))
    settings = {"random_share": SHARE, "votes_per_item": VOTES, "ties": TIES}
    write("feedback_selection", {**settings, "rows": [row for row in old if row["part"] not in chosen] + new})


if __name__ == "__main__":
    main()

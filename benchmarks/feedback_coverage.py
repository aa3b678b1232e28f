"""Coverage of the two intervals of `rlalign feedback report`, and power and false alarms of its tests, by simulation.

    python benchmarks/feedback_coverage.py [STUDIES [PART ...]]

Each row simulates STUDIES studies (1,000 by default) with the functions of the report. Annotators and prompts have
random effects on the log odds of a win: standard deviation 0.6 between annotators, 1 between prompts, 3 votes per item.
The panel's interval is compared with the win rate of these annotators over all prompts, the population's with the win
rate over all annotators and prompts. The Monte-Carlo error of a share p is sqrt(p (1 - p) / STUDIES): 0.007 at 0.95 and
1,000 studies. Writes benchmarks/results/feedback_coverage.json; parts that are not run keep their stored rows.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from machine import RESULTS, write
from numpy.polynomial.hermite_e import hermegauss

from rlalign.feedback.statistics.agreement import Ratings, alpha
from rlalign.feedback.statistics.bias import length_bias, position_bias
from rlalign.feedback.statistics.intervals import rate
from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN, Judgments
from rlalign.feedback.statistics.power import PRIOR, Design, detectable_difference
from rlalign.feedback.statistics.strengths import Refusal, fit
from rlalign.feedback.statistics.win_rates import average_win_rates, win_rates

STUDIES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
DESIGNS = list(itertools.product((3, 5, 10, 30), (100, 300)))  # people, prompts
PROMPT_SD, PERSON_SD = 1.0, 0.6
VOTES = 3
LEAD = 0.3
"""Log odds of the first policy, apart from random effects."""
NODES, WEIGHTS = hermegauss(80)


def mean_win_rate(lead: float, sd: float) -> float:
    """Return E[1 / (1 + exp(-(lead + sd Z)))] of a standard normal Z, by Gauss-Hermite quadrature."""
    return float(WEIGHTS @ (1 / (1 + np.exp(-(lead + sd * NODES))))) / math.sqrt(2 * math.pi)


def study(
    rng: np.random.Generator, people: int, prompts: int, *, lead: float = LEAD, ties: float = 0.0, left: float = 0.0,
    left_sd: float = 0.0, length: float = 0.0, prompt_sd: float = PROMPT_SD, person_sd: float = PERSON_SD,
    strengths: Sequence[float] = (),
) -> tuple[Judgments, np.ndarray]:  # fmt: skip
    """Draw a study by Davidson's model and return its votes and the effects of the annotators.

    Args:
        rng: random numbers.
        people: number of annotators.
        prompts: number of prompts; each has an item of two policies, drawn if there are more.
        lead: of the first of two policies.
        ties: Davidson's ν.
        left: effect of the left side.
        left_sd: its standard deviation between annotators.
        length: effect of the relative difference in length, per standard deviation.
        prompt_sd: of the effect of a prompt.
        person_sd: of the effect of an annotator.
        strengths: of several policies, in place of `lead`.
    """
    values = np.array(strengths) if len(strengths) else np.array([lead, 0.0])
    policy = np.sort(np.argsort(rng.random((prompts, len(values))), axis=1)[:, :2], axis=1)
    effect = person_sd * rng.normal(size=people)
    item = np.repeat(np.arange(prompts), VOTES)
    person = np.argsort(rng.random((prompts, people)), axis=1)[:, :VOTES].ravel()
    n = len(item)
    on_left = rng.random(n) < 0.5
    lengths = rng.integers(100, 1000, (prompts, 2))
    relative = (lengths[:, 0] - lengths[:, 1]) / lengths.sum(1)
    x = (values[policy[:, 0]] - values[policy[:, 1]] + prompt_sd * rng.normal(size=prompts))[item]
    x = x + effect[person] + length * (relative / relative.std())[item]
    x += (left + left_sd * rng.normal(size=people)[person]) * np.where(on_left, 1, -1)
    weight = np.exp(np.stack([-x / 2, np.full(n, math.log(ties) if ties else -np.inf), x / 2], 1))
    outcome = (rng.random((n, 1)) > np.cumsum(weight, 1) / weight.sum(1, keepdims=True)).sum(1)
    place = np.where(on_left, 0, 1)
    votes = Judgments(
        kind="pair", policies=tuple(map(str, range(len(values)))), people=tuple(map(str, range(people))), scales=(),
        group=item, item=item, person=person, policy=policy[item], place=np.stack([place, 1 - place], 1),
        outcome=np.array([LOSS, TIE, WIN])[outcome], ranks=np.zeros((n, 2), int), ratings=np.zeros((n, 0), int),
        length=lengths[item], markdown=np.zeros((n, 2, 3), int), seconds=np.full(n, 10.0), gold=np.zeros(n, bool),
        repeat_of=np.full(n, -1), right=np.full(n, -1), probability=np.ones(n),
    )  # fmt: skip
    return votes, effect


def shares(hits: dict[str, float]) -> dict[str, float]:
    """Return counts as shares, with the largest Monte-Carlo error among them."""
    result = {name: count / STUDIES for name, count in hits.items()}
    error = max(math.sqrt(p * (1 - p) / STUDIES) for p in result.values())
    return {**result, "Monte-Carlo error": error}


def rates(generator: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the intervals of a win rate, and of an interval of independent votes."""
    rows = []
    population = mean_win_rate(LEAD, math.hypot(PROMPT_SD, PERSON_SD))
    for (people, prompts), rng in zip(DESIGNS, generator.spawn(len(DESIGNS)), strict=True):
        hits = {"panel": 0.0, "population": 0.0, "panel's, for the population": 0.0, "independent votes": 0.0}
        for _ in range(STUDIES):
            votes, effect = study(rng, people, prompts)
            (pair,) = win_rates(votes)
            panel = float(np.mean([mean_win_rate(LEAD + e, PROMPT_SD) for e in effect]))
            first, second = pair.rate.panel, pair.rate.population
            assert second is not None
            hits["panel"] += first.low <= panel <= first.high
            hits["population"] += second.low <= population <= second.high
            hits["panel's, for the population"] += first.low <= population <= first.high
            half = 1.96 * math.sqrt(first.value * (1 - first.value) / len(votes))
            hits["independent votes"] += abs(first.value - population) <= half
        rows.append({"people": people, "prompts": prompts, **shares(hits)})
    return rows


def no_person_effect(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage without differences between annotators, with ties, and at a high win rate."""
    rows = []
    for name, lead, ties, person_sd in (
        ("equal annotators", LEAD, 0.0, 0.0), ("ties", LEAD, 1.0, PERSON_SD), ("win rate 0.95", 4.0, 0.0, PERSON_SD)
    ):  # fmt: skip
        sd = math.hypot(PROMPT_SD, person_sd)
        # with ties the score is no logistic function: its mean is that of the model, by quadrature
        truth = _mean_score(lead, sd, ties)
        for people, prompts in ((3, 100), (5, 100), (10, 300)):
            hits = {"panel": 0.0, "population": 0.0}
            for _ in range(STUDIES):
                votes, effect = study(rng, people, prompts, lead=lead, ties=ties, person_sd=person_sd)
                (pair,) = win_rates(votes)
                panel = float(np.mean([_mean_score(lead + e, PROMPT_SD, ties) for e in effect]))
                second = pair.rate.population
                assert second is not None
                hits["panel"] += pair.rate.panel.low <= panel <= pair.rate.panel.high
                hits["population"] += second.low <= truth <= second.high
            rows.append({"studies with": name, "people": people, "prompts": prompts, **shares(hits)})
    return rows


def unequal_workloads(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage if annotator r gives votes in proportion to 1 / r^power, as in a crowd.

    The panel's value is the mean over annotators by their shares of the votes.
    """
    rows = []
    population = mean_win_rate(LEAD, math.hypot(PROMPT_SD, PERSON_SD))
    for people, votes_per_item, exponent in ((5, 1, 1.0), (10, 1, 1.0), (10, 3, 1.0), (10, 1, 1.5), (30, 1, 1.0)):
        load = 1 / np.arange(1, people + 1) ** exponent
        hits = {"panel": 0.0, "population": 0.0}
        for _ in range(STUDIES):
            item = np.repeat(np.arange(300), votes_per_item)
            # the largest keys are a sample without replacement with probabilities in proportion to the loads
            keys = rng.random((300, people)) ** (1 / load)
            person = np.argsort(-keys, axis=1)[:, :votes_per_item].ravel()
            effect = PERSON_SD * rng.normal(size=people)
            x = LEAD + PROMPT_SD * rng.normal(size=300)[item] + effect[person]
            won = (rng.random(len(item)) < 1 / (1 + np.exp(-x))).astype(float)
            estimate = rate(won, item, person, method="win rate")
            assert estimate.population is not None
            of_people = np.array([mean_win_rate(LEAD + e, PROMPT_SD) for e in effect])
            panel = float(of_people @ np.bincount(person, minlength=people)) / len(item)
            hits["panel"] += estimate.panel.low <= panel <= estimate.panel.high
            hits["population"] += estimate.population.low <= population <= estimate.population.high
        row = {"people": people, "prompts": 300, "votes per item": votes_per_item, "power": exponent}
        rows.append({**row, **shares(hits)})
    return rows


def _mean_score(lead: float, sd: float, ties: float) -> float:
    x = lead + sd * NODES
    win, loss = np.exp(x / 2), np.exp(-x / 2)
    return float(WEIGHTS @ ((win + ties / 2) / (win + loss + ties))) / math.sqrt(2 * math.pi)


def strengths(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of a difference of strengths of three policies, and of its simultaneous intervals.

    There are no random effects of prompts on the strengths, which would change the value that the model estimates;
    annotators differ in their taste for the first policy of an item. The true value is that of a large study.
    """
    from rlalign.feedback.statistics.ranking import contrasts, simultaneous

    true = (0.6, 0.3, 0.0)
    _, matrix = contrasts(3)
    large, _ = study(
        np.random.default_rng(7), 3000, 60_000, strengths=true, ties=0.7, prompt_sd=PROMPT_SD, person_sd=PERSON_SD
    )
    reference = fit(large)
    assert not isinstance(reference, Refusal)
    truth = matrix @ reference.values
    rows = []
    for people, prompts in ((3, 300), (5, 300), (10, 300), (30, 300)):
        hits = {
            "population, one difference": 0.0,
            "population, all simultaneous": 0.0,
            "panel, for the population": 0.0,
        }
        for _ in range(STUDIES):
            votes, _ = study(rng, people, prompts, strengths=true, ties=0.7)
            fitted = fit(votes)
            assert not isinstance(fitted, Refusal)
            of = fitted.strengths_covariance().of(matrix)
            single = of.estimates(matrix @ fitted.values, "", "")[0]
            assert single.population is not None
            hits["population, one difference"] += single.population.low <= truth[0] <= single.population.high
            hits["panel, for the population"] += single.panel.low <= truth[0] <= single.panel.high
            claims = simultaneous(matrix @ fitted.values, of, "population", method="").estimates
            hits["population, all simultaneous"] += all(
                c.low <= value <= c.high for c, value in zip(claims, truth, strict=True)
            )
        rows.append({"people": people, "prompts": prompts, "policies": len(true), **shares(hits)})
    return rows


def biases(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often the tests of position and length bias find a bias, planted or not, and one of annotators.

    "none" must be found in at most 5 % of the studies, but for the error of the simulation.
    """
    rows = []
    for people, prompts in ((3, 300), (10, 300), (30, 300)):
        for name, planted in (
            ("none", {}),
            ("left 0.3", {"left": 0.3}),
            ("length 0.4", {"length": 0.4}),
            ("annotators differ by 0.3 in their side, mean 0", {"left_sd": 0.3}),
        ):
            hits = {"position, headline": 0.0, "length, headline": 0.0, "position, panel": 0.0, "length, panel": 0.0}
            for _ in range(STUDIES):
                votes, _ = study(rng, people, prompts, ties=0.5, **planted)
                position = position_bias(votes)
                _, length = length_bias(votes)
                assert position is not None
                assert not isinstance(length, Refusal)
                hits["position, headline"] += position.found
                hits["length, headline"] += length.found
                hits["position, panel"] += position.estimate.panel.p(0.5) < 0.05
                hits["length, panel"] += length.estimate.panel.p(0.0) < 0.05
            rows.append({"planted": name, "people": people, "prompts": prompts, **shares(hits)})
    return rows


def bias_power(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often biases are found that have the size called detectable in studies without bias; 80 % is expected.

    The tests are those of the headline: for the panel with 3 people, for the population with 10 and 30.
    """
    rows = []
    sd = math.hypot(PROMPT_SD, PERSON_SD)
    curve = 1 / (1 + np.exp(-(LEAD + sd * NODES)))
    slope = float(WEIGHTS @ (curve * (1 - curve))) / math.sqrt(2 * math.pi)
    # random effects of a logistic model shrink its coefficients by about this factor (Zeger, Liang and Albert 1988)
    shrink = 1 / math.sqrt(1 + 0.346 * sd**2)
    for people, prompts in ((3, 300), (10, 300), (30, 300)):
        sizes = []
        for _ in range(200):
            votes, _ = study(rng, people, prompts, ties=0.5)
            position, (_, length) = position_bias(votes), length_bias(votes)
            assert position is not None
            assert not isinstance(length, Refusal)
            sizes.append((position.estimate.main.detectable, length.estimate.main.detectable))
        share, effect = np.median(sizes, axis=0)
        hits = {"position: found": 0.0, "length: found": 0.0}
        for _ in range(STUDIES):
            votes, _ = study(rng, people, prompts, ties=0.5, left=share / slope)
            position = position_bias(votes)
            assert position is not None
            hits["position: found"] += position.found
            votes, _ = study(rng, people, prompts, ties=0.5, length=effect / shrink)
            _, length = length_bias(votes)
            assert not isinstance(length, Refusal)
            hits["length: found"] += length.found
        sizes_of = {"position: detectable share": float(share), "length: detectable effect": float(effect)}
        rows.append({"people": people, "prompts": prompts, **sizes_of, **shares(hits)})
    return rows


def power(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often a difference of the size that `plan` calls detectable is found; 80 % is expected.

    The difference is planted in the mean win rate over prompts and annotators; the panel's test is of the panel.
    """
    rows = []
    for people, prompts in ((3, 300), (10, 300), (30, 300), (100, 600)):
        design = Design(prompts, people, VOTES)
        row: dict[str, Any] = {"people": people, "prompts": prompts}
        for interval in ("panel", "population"):
            size = detectable_difference(design, PRIOR, interval)
            row |= {f"{interval}: detectable": size, f"{interval}: found": None}
            if size >= 0.3:  # beyond, win rates near 1 have a smaller variance than the prior's
                continue
            # without differences between annotators the panel's win rate is the planted one
            person_sd = PERSON_SD if interval == "population" else 0.0
            lead = _lead_of(0.5 + size, math.hypot(PROMPT_SD, person_sd))
            found = 0
            for _ in range(STUDIES):
                votes, _ = study(rng, people, prompts, lead=lead, person_sd=person_sd)
                (pair,) = win_rates(votes)
                estimate = pair.rate.panel if interval == "panel" else pair.rate.population
                assert estimate is not None
                found += estimate.low > 0.5
            row[f"{interval}: found"] = found / STUDIES
        rows.append({**row, "Monte-Carlo error": math.sqrt(0.8 * 0.2 / STUDIES)})
    return rows


def _lead_of(rate: float, sd: float) -> float:
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_win_rate(middle, sd) < rate else (low, middle)
    return low


def alphas(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the bootstrap interval of Krippendorff's alpha, for the panel."""
    rows = []
    for people, prompts in ((3, 100), (10, 300)):
        large, _ = study(np.random.default_rng(3), people, 200_000, ties=0.7, person_sd=0.0)
        ordinal = _ratings(large, people)
        truth = float(alpha(ordinal, "ordinal").value)
        hits = {"alpha, ordinal": 0.0}
        for _ in range(STUDIES):
            votes, _ = study(rng, people, prompts, ties=0.7, person_sd=0.0)
            estimate = alpha(_ratings(votes, people), "ordinal")
            hits["alpha, ordinal"] += estimate.low <= truth <= estimate.high
        rows.append({"people": people, "prompts": prompts, **shares(hits)})
    return rows


def _ratings(votes: Judgments, people: int) -> Ratings:
    return Ratings(votes.item, votes.group, votes.person % people, votes.outcome, WIN + 1)


def averages(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the coverage of the mean win rate of a policy over two others."""
    true = (0.6, 0.3, 0.0)
    large, _ = study(np.random.default_rng(8), 3000, 60_000, strengths=true, ties=0.7)
    truth = average_win_rates(large)[0].panel.value
    rows = []
    for people in (5, 30):
        hits = {"population": 0.0}
        for _ in range(STUDIES):
            votes, _ = study(rng, people, 300, strengths=true, ties=0.7)
            estimate = average_win_rates(votes)[0].population
            assert estimate is not None
            hits["population"] += estimate.low <= truth <= estimate.high
        rows.append({"people": people, "prompts": 300, "policies": len(true), **shares(hits)})
    return rows


def main() -> None:
    parts = {"rates": rates, "no_person_effect": no_person_effect, "strengths": strengths, "averages": averages,
             "biases": biases, "bias_power": bias_power, "power": power, "alpha": alphas,
             "unequal_workloads": unequal_workloads}  # fmt: skip
    path = RESULTS / "feedback_coverage.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    result: dict[str, Any] = {name: stored[name] for name in parts if name in stored}
    for i, name in enumerate(parts):
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        rows = parts[name](np.random.default_rng([0, i]))
        result[name] = {"studies": STUDIES, "rows": rows}
        print(f"\n{name}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
        for row in rows:
            print(f"| {' | '.join(f'{v:.3f}' if isinstance(v, float) else str(v) for v in row.values())} |")
        print(write("feedback_coverage", result), flush=True)


if __name__ == "__main__":
    main()

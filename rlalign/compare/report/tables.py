"""The tables of a report: final rewards, paired differences, what it cost, and the searches."""

from __future__ import annotations

from collections.abc import Mapping

from rlalign.compare.report.figures import BUDGET_WORDS
from rlalign.compare.report.html import Html, joined, tag
from rlalign.compare.report.numbers import cost, headed, number, p_value, typeset
from rlalign.compare.report.page import row, section, table
from rlalign.compare.report.pieces import Colours, estimate, group, name_of, note, plain
from rlalign.compare.results import BUDGETS, Pair, Results, Spread
from rlalign.compare.statistics import FEWEST_SEEDS


def finals(results: Results, colours: Colours) -> Html:
    """Where each algorithm ended, environment by environment, and over all of them."""
    one = next(iter(next(iter(results.environments.values())).algorithms.values()))
    head = [
        "Algorithm",
        "mean",
        headed("IQM", one.iqm),
        headed("median", one.median),
        "gain over start",
        "KL, nats",
        "length",
        "SD: seeds, prompts, rest",
        "failed",
    ]
    numeric = set(range(1, len(head)))
    rows: list[Html] = []
    for name, env in results.environments.items():
        rows.append(group(name, len(head)))
        best = max((r.mean.value for r in env.algorithms.values() if r.mean.value is not None), default=None)
        for algorithm, r in env.algorithms.items():
            failed = sum(r.failed)
            top = r.mean.value is not None and r.mean.value == best
            rows.append(
                row(
                    [
                        name_of(algorithm, colours), estimate(r.mean, strong=top), estimate(r.iqm),
                        estimate(r.median), estimate(r.gain, sign=True), plain(r.metrics.get("kl"), 2),
                        plain(r.metrics.get("length"), 2), _spread(r.spread),
                        f"{failed} of {len(r.failed)}" if failed else "0",
                    ],
                    numeric,
                )
            )  # fmt: skip
    first = next(iter(results.environments.values()), None)
    prompts = len(first.prompts) if first else 0
    return section(
        "Final reward",
        tag(
            "p",
            f"On {prompts} held-out {first.split if first else ''} prompts, the same for all. Brackets are 95 % "
            f"confidence intervals over seeds and prompts ({_methods(results)}){_too_few(results)}. The highest mean "
            "is set in bold, which by itself is no claim. A seed that failed counts with the reward it started from. "
            "Standard deviations: between seeds, between prompts, and of what is left (sampling).",
            class_="note",
        ),
        table(head, rows, numeric),
        _aggregate(results, colours),
        id_="finals",
    )


def _aggregate(results: Results, colours: Colours) -> Html | None:
    found = results.aggregate
    if found is None or len(results.environments) < 2:
        return None
    rows = [
        row(
            [name_of(a, colours), estimate(found.mean[a]), estimate(found.iqm[a]), estimate(found.median[a])],
            {1, 2, 3},
        )
        for a in results.algorithms
    ]
    return joined(
        (
            tag("h3", "All environments together, each scaled so that 0 is its start and 1 the best seed of the study"),
            table(["Algorithm", "mean", "IQM", "median"], rows, {1, 2, 3}),
        )
    )


def pairs(results: Results) -> Html | None:
    """Every pair of algorithms, and what may be said of it."""
    head = ["Pair", "difference", "p", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "winner"]
    numeric = set(range(1, 7))
    rows: list[Html] = []
    for name, env in results.environments.items():
        if env.pairs:
            rows.append(group(name, len(head)))
        rows += [
            row(
                [
                    f"{p.a} − {p.b}", estimate(p.difference, sign=True), p_value(p.p), p_value(p.p_holm),
                    estimate(p.probability_of_improvement), estimate(p.at_equal_kl, sign=True),
                    number(p.detectable), _named(p),
                ],
                numeric,
            )
            for p in env.pairs
        ]  # fmt: skip
    if not rows:
        return None
    return section(
        "Paired differences",
        tag(
            "p",
            "Seed against seed, from the same initial weights and prompts. Holm's correction runs over all pairs and "
            "environments. “Detectable” is the smallest true difference that this study had 80 % power to claim; "
            "smaller ones may exist unseen.",
            class_="note",
        ),
        table(head, rows, numeric),
        _in_words(results),
        id_="pairs",
    )


def _named(pair: Pair) -> Html | str:
    if pair.failed:
        return f"{' and '.join(pair.failed)} failed"
    if pair.identical:
        return "identical results"
    return tag("b", pair.winner) if pair.winner else "none named"


def _in_words(results: Results) -> Html | None:
    sentences = [p.sentence for e in results.environments.values() for p in e.pairs if p.sentence]
    if not sentences:
        return None
    words = [tag("li", typeset(s)) for s in sentences]
    return tag("details", tag("summary", "The same in words"), tag("ul", words), class_="note")


def budgets(results: Results, colours: Colours) -> Html:
    """What it took to reach the threshold, and the mean height of the curves."""
    numeric = {1, 2, 3, 4, 5}
    costs: list[Html] = []
    areas: list[Html] = []
    for name, env in results.environments.items():
        threshold = f"{name}: reward {number(env.threshold)}, {env.threshold_rule}"
        costs.append(group(name if env.threshold is None else threshold, 6))
        areas.append(group(name, 5))
        for algorithm, r in env.algorithms.items():
            first = r.to_threshold.get(BUDGETS[0])
            reached = f"{sum(first.reached)} of {len(first.reached)}" if first else ""
            spent = [cost(r.to_threshold[b], estimate) if b in r.to_threshold else "" for b in BUDGETS]
            costs.append(row([name_of(algorithm, colours), reached, *spent], numeric))
            areas.append(row([name_of(algorithm, colours), *(estimate(r.auc.get(b)) for b in BUDGETS)], numeric))
    words = [BUDGET_WORDS[b] for b in BUDGETS]
    return section(
        "What it cost",
        note(
            "Mean budget until the curve first reached the threshold. Seeds that never did are right-censored: this is "
            "the restricted mean, the area under the Kaplan–Meier curve up to the smallest budget that all runs had. "
            "“>”: no seed reached it within that budget."
        ),
        table(["Algorithm", "reached", *words], costs, numeric),
        tag("h3", "Mean height of the learning curve over the budget that all runs had"),
        table(["Algorithm", *words], areas, numeric),
        id_="budgets",
    )


def tuning(results: Results) -> Html | None:
    """The searches that went before, if there were any."""
    if not results.tuning:
        return None
    head = [
        "Environment",
        "algorithm",
        "trials",
        "pruned",
        "failed",
        "best",
        "sensitivity",
        "searched",
        "settings found",
    ]
    numeric = {2, 3, 4, 5, 6}
    rows = [
        row(
            [
                t.env, t.algorithm, t.trials, t.pruned, t.failed, number(t.best_value),
                "–" if t.sensitivity is None else f"{t.sensitivity:.0%}", _settings(t.search), _settings(t.best),
            ],
            numeric,
        )
        for t in results.tuning
    ]  # fmt: skip
    return section(
        "Hyper-parameter search",
        tag(
            "p",
            "The same number of trials for each algorithm, on seeds that the comparison does not use. Sensitivity is "
            "the share of trials within 95 % of the best improvement: high means easy to tune.",
            class_="note",
        ),
        table(head, rows, numeric),
        id_="tuning",
    )


def _spread(spread: Spread) -> str:
    return " · ".join(number(v) for v in (spread.seeds, spread.prompts, spread.rest))


def _settings(given: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in given.items())


def _too_few(results: Results) -> str:
    if len(results.seeds) >= FEWEST_SEEDS:
        return ""
    return f"; fewer than {FEWEST_SEEDS} seeds give the IQM and the median none"


def _methods(results: Results) -> str:
    found = [
        (word, getattr(r, word).method)
        for e in results.environments.values()
        for r in e.algorithms.values()
        for word in ("mean", "iqm", "median")
        if getattr(r, word).low is not None
    ]
    words = {word: method for word, method in found if method}
    return "; ".join(f"{'IQM' if word == 'iqm' else word}: {method}" for word, method in words.items())

"""The tables of a report: final rewards, paired differences, what it cost, and the searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlalign.compare.analysis.intervals import FEWEST_SEEDS
from rlalign.compare.output.html.figures import MOST_PAIRS
from rlalign.compare.output.html.html import Html, joined, tag
from rlalign.compare.output.html.numbers import level, number, p_value, typeset
from rlalign.compare.output.html.page import row, section, table
from rlalign.compare.output.html.pieces import Colours, cost, estimate, group, name_of, note, plain, with_interval
from rlalign.compare.results.schema import BUDGETS, Pair, Results, Spread


def finals(results: Results, colours: Colours) -> Html:
    """Where each algorithm ended, environment by environment, and over all of them; and how far it went for that."""
    one = next(iter(next(iter(results.environments.values())).algorithms.values()))
    kinds = {"mean": one.mean, "IQM": one.iqm, "median": one.median, "gain": one.gain}
    head = ["Algorithm", *(with_interval(name, level(e)) for name, e in kinds.items())]
    head += ["failed"] if results.failures else []
    noise = ["Algorithm", "KL, nats", "tokens", "SD: seeds", "prompts", "rest"]
    numeric = set(range(1, 6))
    rewards: list[Html] = []
    rest: list[Html] = []
    for name, env in results.environments.items():
        rewards.append(group(name, len(head), f"{len(env.prompts)} {env.split} prompts"))
        rest.append(group(name, len(noise)))
        best = max((r.mean.value for r in env.algorithms.values() if r.mean.value is not None), default=None)
        for algorithm, r in env.algorithms.items():
            top = r.mean.value is not None and r.mean.value == best
            who = name_of(algorithm, colours)
            cells = [
                who,
                estimate(r.mean, strong=top),
                estimate(r.iqm),
                estimate(r.median),
                estimate(r.gain, sign=True),
            ]
            failed = [f"{sum(r.failed)} of {len(r.failed)}"] if results.failures else []
            rewards.append(row([*cells, *failed], numeric))
            means = [plain(r.metrics.get(metric), 2) for metric in ("kl", "length")]
            rest.append(row([who, *means, *_spread(r.spread)], numeric))
    return section(
        "Final reward",
        note(
            "On held-out prompts, the same for all; the gain is over the start. Confidence intervals of mean and gain "
            "are for new seeds and new prompts, those of IQM and median for new seeds on these prompts "
            f"({_methods(results)}){_too_few(results)}. The highest mean is set in bold, which by "
            "itself is no claim. A seed that failed counts with the reward it started from."
        ),
        table("final rewards", head, rewards, numeric),
        _aggregate(results, colours),
        tag("h3", "How far from the start, how long, and where the spread of rewards comes from"),
        note(
            "Means after training: KL to the start and length, both per completion. Standard deviations between seeds, "
            "between prompts, and of what is left (sampling)."
        ),
        table("distance, length and spread", noise, rest, numeric),
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
            table("all environments", ["Algorithm", *map(with_interval, ("mean", "IQM", "median"))], rows, {1, 2, 3}),
        )
    )


def pairs(results: Results) -> Html | None:
    """Every pair of algorithms, and what may be said of it."""
    every = {name: env.pairs for name, env in results.environments.items() if env.pairs}
    if not every:
        return None
    many = max(map(len, every.values())) > MOST_PAIRS
    claimed = {n: won for n, found in every.items() if (won := [p for p in found if p.winner])}
    rest = tag("details", tag("summary", f"All {sum(map(len, every.values()))} pairs"), _pairs(every))
    return section(
        "Paired differences",
        tag(
            "p",
            "Seed against seed, from the same initial weights and prompts. Holm's correction runs over all pairs and "
            "environments. “Detectable” is the smallest true difference that this study had 80 % power to claim; "
            "smaller ones may exist unseen. Intervals are before correction; “at equal KL” leaves out "
            "seeds that failed."
            + (" Here are the pairs of which one is named the winner; all others fold out below." if many else ""),
            class_="note",
        ),
        *([_pairs(claimed) if claimed else None, rest] if many else [_pairs(every)]),
        _in_words(results),
        id_="pairs",
    )


def _pairs(found: Mapping[str, Sequence[Pair]]) -> Html:
    head = ["Pair", "difference", "p", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "winner"]
    head = [with_interval(h) if i in (1, 4, 5) else h for i, h in enumerate(head)]
    numeric = set(range(1, 7))
    rows: list[Html] = []
    for name, some in found.items():
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
            for p in some
        ]  # fmt: skip
    return table("pairs", head, rows, numeric)


def _named(pair: Pair) -> Html | str:
    return tag("b", pair.winner) if pair.winner else pair.outcome or "none named"


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
        threshold = "" if env.threshold is None else typeset(f"reward {number(env.threshold)}, {env.threshold_rule}")
        costs.append(group(name, 6, threshold))
        areas.append(group(name, 5))
        for algorithm, r in env.algorithms.items():
            first = r.to_threshold.get(BUDGETS[0])
            reached = f"{sum(first.reached)} of {len(first.reached)}" if first else ""
            spent = [cost(r.to_threshold[b]) if b in r.to_threshold else "" for b in BUDGETS]
            costs.append(row([name_of(algorithm, colours), reached, *spent], numeric))
            areas.append(row([name_of(algorithm, colours), *(estimate(r.auc.get(b)) for b in BUDGETS)], numeric))
    words = [with_interval({"updates": "optimizer steps"}.get(b, b)) for b in BUDGETS]
    return section(
        "What it cost",
        note(
            "Mean budget until the curve first reached the threshold. Seeds that never did are right-censored: this is "
            "the restricted mean, the area under the Kaplan–Meier curve up to the smallest budget that all runs had. "
            "“>”: no seed reached it within that budget."
        ),
        table("budget to the threshold", ["Algorithm", "reached", *words], costs, numeric),
        tag("h3", "Mean height of the learning curve over the budget that all runs had"),
        table("mean height of the curve", ["Algorithm", *words], areas, numeric),
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
            {7, 8},
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
        table("searches", head, rows, numeric),
        id_="tuning",
    )


def _spread(spread: Spread) -> list[str]:
    return [number(v) for v in (spread.seeds, spread.prompts, spread.rest)]


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

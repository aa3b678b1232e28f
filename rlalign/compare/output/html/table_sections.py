"""Sections of a study's report that hold tables: final rewards, paired differences, budgets and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlalign.compare.analysis.intervals import FEWEST_SEEDS
from rlalign.compare.output.deviations import CLIPPED, CLIPPED_NOTE, deviation
from rlalign.compare.output.html.study_plots import MAX_PAIRS
from rlalign.compare.results.schema import BUDGETS, AlgorithmResult, Pair, Results, ToThreshold
from rlalign.html.components import (
    Colors,
    colored_name,
    estimate,
    group_row,
    note,
    value_only,
    with_interval,
)
from rlalign.html.markup import Html, joined, tag
from rlalign.html.numbers import (
    MISSING,
    level,
    number,
    p_value,
    typeset,
)
from rlalign.html.page import row, section, table


def final_rewards(results: Results, colors: Colors) -> Html:
    """Return the section of final rewards per environment and overall, KL, length, and standard deviations."""
    reward_head, reward_rows = _reward_rows(results, colors)
    spread_head, spread_rows = _spread_rows(results, colors)
    return section(
        "Final reward",
        note(
            "On held-out prompts, the same for all algorithms. The gain is relative to the initial policy. Confidence "
            "intervals of mean and gain are for new seeds and new prompts, those of IQM and median for new seeds on "
            f"these prompts ({_methods(results)}){_too_few(results)}. The highest mean is bold, which is not a claim. "
            "A failed seed counts with the reward of its initial policy."
        ),
        table("final rewards", reward_head, reward_rows, _columns(reward_head)),
        _aggregate(results, colors),
        tag("h3", "KL, length and sources of variance"),
        note(
            "Means after training of the KL to the reference policy and of the length, per completion. Standard "
            "deviations of the reward between seeds, between prompts, and of the residual (sampling and interaction of "
            f"seed and prompt). {CLIPPED_NOTE if any(CLIPPED in r for r in spread_rows) else ''}"
        ),
        table("KL, length and standard deviations", spread_head, spread_rows, _columns(spread_head)),
        id_="finals",
    )


def _reward_rows(results: Results, colors: Colors) -> tuple[list[str], list[Html]]:
    # methods and levels of the intervals are the same in all cells
    first = next(iter(next(iter(results.environments.values())).algorithms.values()))
    kinds = {"mean": first.mean, "IQM": first.iqm, "median": first.median, "gain": first.gain}
    head = ["Algorithm", *(with_interval(name, level(value)) for name, value in kinds.items())]
    head += ["failed"] if results.failures else []
    rows: list[Html] = []
    for name, env in results.environments.items():
        rows.append(group_row(name, len(head), f"{len(env.prompts)} {env.split} prompts"))
        means = [result.mean.value for result in env.algorithms.values() if result.mean.value is not None]
        best = max(means, default=None)
        for algorithm, result in env.algorithms.items():
            is_best = result.mean.value is not None and result.mean.value == best
            cells: list[object] = [
                colored_name(algorithm, colors),
                estimate(result.mean, strong=is_best),
                estimate(result.iqm),
                estimate(result.median),
                estimate(result.gain, sign=True),
            ]
            if results.failures:
                cells.append(f"{sum(result.failed)} of {len(result.failed)}")
            rows.append(row(cells, _columns(head)))
    return head, rows


def _spread_rows(results: Results, colors: Colors) -> tuple[list[str], list[Html]]:
    head = ["Algorithm", "KL, nats", "tokens", "SD: seeds", "prompts", "residual"]
    rows: list[Html] = []
    for name, env in results.environments.items():
        rows.append(group_row(name, len(head)))
        for algorithm, result in env.algorithms.items():
            means = [value_only(result.metrics.get(metric), 2) for metric in ("kl", "length")]
            spread = result.spread
            deviations = [deviation(value) for value in (spread.seeds, spread.prompts, spread.rest)]
            rows.append(row([colored_name(algorithm, colors), *means, *deviations], _columns(head)))
    return head, rows


def _columns(head: Sequence[str]) -> set[int]:
    """Return the indices of all columns but the first, which holds names."""
    return set(range(1, len(head)))


def _aggregate(results: Results, colors: Colors) -> Html | None:
    aggregate = results.aggregate
    if aggregate is None or len(results.environments) < 2:
        return None
    head = ["Algorithm", *map(with_interval, ("mean", "IQM", "median"))]
    rows = []
    for name in results.algorithms:
        values = [estimate(kind[name]) for kind in (aggregate.mean, aggregate.iqm, aggregate.median)]
        rows.append(row([colored_name(name, colors), *values], _columns(head)))
    heading = "All environments, each rescaled so that 0 is the initial policy and 1 the best seed of the study"
    return joined((tag("h3", heading), table("all environments", head, rows, _columns(head))))


def paired_differences(results: Results) -> Html | None:
    """Return the section of all pairs of algorithms, None without any; of many pairs only winners are unfolded."""
    pairs = {name: env.pairs for name, env in results.environments.items() if env.pairs}
    if not pairs:
        return None
    words = (
        "Paired by seed: both have the same initial weights and prompts. Holm's correction covers all pairs and "
        "environments. “Detectable” is the smallest true difference that this study had 80 % power to claim; it can "
        "miss smaller ones. Intervals are before correction; “at equal KL” leaves out failed seeds."
    )
    if max(map(len, pairs.values())) <= MAX_PAIRS:
        tables: list[Html | None] = [_pair_table(pairs)]
    else:
        words += " This table lists the pairs with a winner; all pairs are in the list below it."
        winners = {name: [pair for pair in env_pairs if pair.winner] for name, env_pairs in pairs.items()}
        with_winner = {name: env_pairs for name, env_pairs in winners.items() if env_pairs}
        summary = tag("summary", f"All {sum(map(len, pairs.values()))} pairs")
        tables = [_pair_table(with_winner) if with_winner else None, tag("details", summary, _pair_table(pairs))]
    return section("Paired differences", note(words), *tables, _in_words(results), id_="pairs")


def _pair_table(pairs: Mapping[str, Sequence[Pair]]) -> Html:
    names = ["Pair", "difference", "p", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "winner"]
    intervals = ("difference", "P(improvement)", "at equal KL")
    head = [with_interval(name) if name in intervals else name for name in names]
    numeric = set(range(1, len(head) - 1))  # not the pair, not the winner
    rows: list[Html] = []
    for env_name, env_pairs in pairs.items():
        rows.append(group_row(env_name, len(head)))
        for pair in env_pairs:
            cells = [
                f"{pair.a} − {pair.b}",
                estimate(pair.difference, sign=True),
                p_value(pair.p),
                p_value(pair.p_holm),
                estimate(pair.probability_of_improvement),
                estimate(pair.at_equal_kl, sign=True),
                number(pair.detectable),
                tag("b", pair.winner) if pair.winner else pair.outcome or "none named",
            ]
            rows.append(row(cells, numeric))
    return table("pairs", head, rows, numeric)


def _in_words(results: Results) -> Html | None:
    sentences = [pair.sentence for env in results.environments.values() for pair in env.pairs if pair.sentence]
    if not sentences:
        return None
    items = [tag("li", typeset(sentence)) for sentence in sentences]
    return tag("details", tag("summary", "The same results in words"), tag("ul", items), class_="note")


def budgets(results: Results, colors: Colors) -> Html:
    """Return the section of the budget to the threshold and the normalized area under the learning curve."""
    words = [with_interval({"updates": "optimizer steps"}.get(budget, budget)) for budget in BUDGETS]
    cost_head = ["Algorithm", "reached", *words]
    area_head = ["Algorithm", *words]
    numeric = _columns(cost_head)
    costs: list[Html] = []
    areas: list[Html] = []
    for name, env in results.environments.items():
        threshold = "" if env.threshold is None else typeset(f"reward {number(env.threshold)}, {env.threshold_rule}")
        costs.append(group_row(name, len(cost_head), threshold))
        areas.append(group_row(name, len(area_head)))
        for algorithm, result in env.algorithms.items():
            label = colored_name(algorithm, colors)
            costs.append(row([label, _reached(result), *_costs(result)], numeric))
            areas.append(row([label, *(estimate(result.auc.get(budget)) for budget in BUDGETS)], numeric))
    return section(
        "Learning speed",
        tag("h3", "Budget to the threshold"),
        note(
            "Mean budget until the learning curve first reached the threshold. A seed that never reached it is "
            "right-censored: the number is the restricted mean, the area under the Kaplan–Meier curve up to the "
            "smallest budget that all runs had. “>”: no seed reached the threshold within that budget."
        ),
        table("budget to the threshold", cost_head, costs, numeric),
        tag("h3", "Normalized area under the learning curve"),
        note(
            "Mean reward of the learning curve over the budget that all runs had, with the budget as horizontal axis."
        ),
        table("normalized area under the learning curve", area_head, areas, numeric),
        id_="budgets",
    )


def _reached(result: AlgorithmResult) -> str:
    to_threshold = result.to_threshold.get(BUDGETS[0])  # whether a seed reached it does not depend on the budget
    return f"{sum(to_threshold.reached)} of {len(to_threshold.reached)}" if to_threshold else ""


def _costs(result: AlgorithmResult) -> list[Html | str]:
    return [cost(result.to_threshold[budget]) if budget in result.to_threshold else "" for budget in BUDGETS]


def tuning(results: Results) -> Html | None:
    """Return the section of the searches before the study, None without any."""
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
        "best settings",
    ]
    numeric = {2, 3, 4, 5, 6}
    rows = []
    for search in results.tuning:
        sensitivity = MISSING if search.sensitivity is None else f"{search.sensitivity:.0%}"
        counts = [search.trials, search.pruned, search.failed]
        settings = [_settings(search.search), _settings(search.best)]
        cells = [search.env, search.algorithm, *counts, number(search.best_value), sensitivity, *settings]
        rows.append(row(cells, numeric, {7, 8}))
    return section(
        "Hyperparameter search",
        note(
            "The same number of trials for each algorithm, on seeds that the comparison does not use. Sensitivity is "
            "the share of trials within 95 % of the best improvement: a high share means easy to tune."
        ),
        table("searches", head, rows, numeric),
        id_="tuning",
    )


def _settings(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _too_few(results: Results) -> str:
    if len(results.seeds) >= FEWEST_SEEDS:
        return ""
    return f"; with fewer than {FEWEST_SEEDS} seeds IQM and median have no interval"


def _methods(results: Results) -> str:
    """Return the method of each kind of interval, such as `mean: Student's t; IQM: bootstrap`."""
    methods: dict[str, str] = {}
    for env in results.environments.values():
        for result in env.algorithms.values():
            for kind, value in (("mean", result.mean), ("IQM", result.iqm), ("median", result.median)):
                if value.low is not None and value.method:
                    methods[kind] = value.method
    return "; ".join(f"{kind}: {method}" for kind, method in methods.items())


def cost(to_threshold: ToThreshold) -> Html:
    """Return the mean budget to a threshold, or a lower bound if no seed reached it."""
    if to_threshold.beyond is None:
        return estimate(to_threshold.restricted_mean)
    return with_interval(f"> {number(to_threshold.beyond)}", "")

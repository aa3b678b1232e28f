"""report.html of a study: the verdict, tables, pictures, completions side by side, and where it all comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rlalign.compare import figures
from rlalign.compare.html import Html, joined, tag, visible
from rlalign.compare.numbers import interval, number, p_value, seconds
from rlalign.compare.page import facts, page, panels, row, section, table
from rlalign.compare.results import BUDGETS, Estimate, Failure, Results, Spread
from rlalign.compare.svg import shade

Colours = Mapping[str, int]


def write_report(folder: str | Path, results: Results) -> Path:
    """Write report.html, atomically, and return its path."""
    path = Path(folder) / "report.html"
    tmp = path.with_suffix(".html.tmp")
    tmp.write_text(render(results), encoding="utf-8")
    os.replace(tmp, path)
    return path


def render(results: Results) -> str:
    """The report as one HTML document."""
    colours = {name: i for i, name in enumerate(results.algorithms)}
    return page(
        results.title,
        _head(results),
        _finals(results, colours),
        _pairs(results),
        _budgets(results, colours),
        _tuning(results),
        _pictures(results, colours),
        _samples(results, colours),
        _manifest(results),
    )


# ---- the verdict ----


def _head(results: Results) -> Html:
    m, envs = results.manifest, results.environments
    warnings = [tag("li", w) for w in results.warnings]
    return tag(
        "header",
        tag("p", "Comparison of algorithms", class_="kind"),
        tag("h1", results.title),
        tag(
            "p",
            f"{len(results.algorithms)} algorithms × {len(envs)} "
            f"{'environment' if len(envs) == 1 else 'environments'} × {len(results.seeds)} seeds · policy {m.policy} · "
            f"{m.created[:10]}",
            class_="facts",
        ),
        tag("div", [tag("p", sentence) for sentence in results.verdict], class_="verdict", id_="verdict"),
        tag("ul", warnings, class_="warn") if warnings else None,
    )


# ---- tables ----


def _finals(results: Results, colours: Colours) -> Html:
    head = [
        "Algorithm",
        "mean",
        "IQM",
        "median",
        "gain over start",
        "KL, nats",
        "length",
        "SD: seeds, prompts, rest",
        "failed",
    ]
    numeric = set(range(1, len(head)))
    rows: list[Html] = []
    for name, env in results.environments.items():
        rows.append(_group(name, len(head)))
        best = max((r.mean.value for r in env.algorithms.values() if r.mean.value is not None), default=None)
        for algorithm, r in env.algorithms.items():
            failed = sum(r.failed)
            top = r.mean.value is not None and r.mean.value == best
            rows.append(
                row(
                    [
                        _name(algorithm, colours), _estimate(r.mean, strong=top), _estimate(r.iqm),
                        _estimate(r.median), _estimate(r.gain, sign=True), _plain(r.metrics.get("kl"), 2),
                        _plain(r.metrics.get("length"), 2), _spread(r.spread),
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
            f"confidence intervals over seeds and prompts ({_methods(results)}). The highest mean is set in bold, "
            "which by itself is no claim. A seed that failed counts with the reward it started from. Standard "
            "deviations: between seeds, between prompts, and of what is left (sampling).",
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
            [_name(a, colours), _estimate(found.mean[a]), _estimate(found.iqm[a]), _estimate(found.median[a])],
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


def _pairs(results: Results) -> Html | None:
    head = ["Pair", "difference", "p", "p (Holm)", "P(improvement)", "at equal KL", "detectable", "winner"]
    numeric = set(range(1, 7))
    rows: list[Html] = []
    for name, env in results.environments.items():
        if env.pairs:
            rows.append(_group(name, len(head)))
        rows += [
            row(
                [
                    f"{p.a} − {p.b}", _estimate(p.difference, sign=True), p_value(p.p), p_value(p.p_holm),
                    _estimate(p.probability_of_improvement), _estimate(p.at_equal_kl, sign=True),
                    number(p.detectable), tag("b", p.winner) if p.winner else "none named",
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


def _in_words(results: Results) -> Html | None:
    sentences = [p.sentence for e in results.environments.values() for p in e.pairs if p.sentence]
    if not sentences:
        return None
    return tag(
        "details", tag("summary", "The same in words"), tag("ul", [tag("li", s) for s in sentences]), class_="note"
    )


def _budgets(results: Results, colours: Colours) -> Html:
    numeric = {1, 2, 3, 4, 5}
    costs: list[Html] = []
    areas: list[Html] = []
    for name, env in results.environments.items():
        threshold = f"{name}: reward {number(env.threshold)}, {env.threshold_rule}"
        costs.append(_group(name if env.threshold is None else threshold, 6))
        areas.append(_group(name, 5))
        for algorithm, r in env.algorithms.items():
            first = r.to_threshold.get(BUDGETS[0])
            reached = f"{sum(first.reached)} of {len(first.reached)}" if first else ""
            spent = [_estimate(r.to_threshold[b].restricted_mean) if b in r.to_threshold else "" for b in BUDGETS]
            costs.append(row([_name(algorithm, colours), reached, *spent], numeric))
            areas.append(row([_name(algorithm, colours), *(_estimate(r.auc.get(b)) for b in BUDGETS)], numeric))
    words = [figures.BUDGET_WORDS[b] for b in BUDGETS]
    return section(
        "What it cost",
        note(
            "Mean budget until the curve first reached the threshold. Seeds that never did are right-censored: the "
            "restricted mean under the Kaplan–Meier curve."
        ),
        table(["Algorithm", "reached", *words], costs, numeric),
        tag("h3", "Mean height of the learning curve over the budget that all runs had"),
        table(["Algorithm", *words], areas, numeric),
        id_="budgets",
    )


def _tuning(results: Results) -> Html | None:
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


# ---- pictures ----


def _pictures(results: Results, colours: Colours) -> Html:
    envs = results.environments
    switch = [
        tag(
            "label",
            Html(f'<input type="radio" name="by" id="by-{b}"{" checked" if b == BUDGETS[0] else ""}>'),
            figures.BUDGET_WORDS[b],
        )
        for b in BUDGETS
    ]
    curves = [
        panels([figures.learning_curves(n, e, colours, b) for n, e in envs.items()], f"by by-{b}") for b in BUDGETS
    ]
    frontiers = [f for n, e in envs.items() if (f := figures.frontier(n, e, colours)) is not None]
    shares = [
        figures.profiles(n, {a: r.profile for a, r in e.algorithms.items()}, colours, "final reward")
        for n, e in envs.items()
    ]
    if results.aggregate is not None and len(envs) > 1:
        shares.append(figures.profiles("all environments", results.aggregate.profile, colours, "scaled final reward"))
    pairs = [figures.differences(n, e, colours) for n, e in envs.items() if e.pairs]
    return joined(
        (
            section(
                "Learning curves",
                note(
                    "Mean over seeds at equal steps, drawn against the mean budget spent by then; bands are pointwise "
                    "95 % confidence intervals (Student’s t). Nothing is smoothed. Dashed: the threshold."
                ),
                tag("fieldset", switch, class_="switch", aria_label="budget"),
                *curves,
                id_="curves",
            ),
            section(
                "Final reward, seed by seed",
                note("Each pale dot is a seed, open where it failed; the full dot is the mean with its 95 % interval. "
                      "Dashed: the mean before training."),
                panels([figures.final_scores(n, e, colours) for n, e in envs.items()]),
                id_="seeds",
            ),
            section(
                "Differences",
                note("Paired, with 95 % confidence intervals before correction. Coloured where a winner is named."),
                panels([*pairs]),
                id_="differences",
            )
            if pairs
            else None,
            section(
                "Performance profiles",
                note("Share of seeds whose final reward is above the value on the axis, with pointwise 95 % bands at "
                      "the steps. A curve that lies above another everywhere dominates it."),
                _legend(results.algorithms, colours),
                panels([*shares]),
                id_="profiles",
            ),
            section(
                "Reward against KL",
                note("Mean course of training in the plane of reward and distance from the start; dots are single "
                      "seeds at their end. Dashed: the level at which algorithms are compared at equal KL."),
                panels([*frontiers]),
                id_="frontier",
            )
            if frontiers
            else None,
        )
    )  # fmt: skip


def _legend(names: list[str], colours: Colours) -> Html:
    return tag("ul", [tag("li", _name(n, colours)) for n in names], class_="legend")


# ---- completions ----


def _samples(results: Results, colours: Colours) -> Html | None:
    blocks = []
    for name, env in results.environments.items():
        if env.samples:
            blocks.append(tag("h3", name))
        for s in env.samples:
            texts = [said(tag("h4", "before training"), s.start)]
            texts += [
                said(
                    tag("h4", _name(a, colours), tag("span", number(s.rewards.get(a)), class_="score"), class_="name"),
                    completion,
                )
                for a, completion in s.completions.items()
            ]
            blocks.append(
                tag(
                    "div",
                    said(tag("h4", f"prompt, seed {s.seed}"), s.prompt),
                    tag("div", texts, class_="texts"),
                    class_="sample",
                )
            )
    if not blocks:
        return None
    words = note("Completions of held-out prompts, not chosen by hand; the number is their reward.")
    return section("Completions side by side", words, *blocks, id_="samples")


def said(heading: Html, text: str) -> Html:
    """A text of a model or a prompt under its heading, as text."""
    shown = visible(text)
    body = (
        tag("p", shown, class_="said", dir="auto", tabindex="0")
        if shown.strip()
        else tag("p", "(empty)", class_="said empty")
    )
    return tag("div", heading, body)


# ---- where it comes from ----


def _manifest(results: Results) -> Html:
    m = results.manifest
    return section(
        "Manifest",
        tag("h3", "To reproduce"),
        tag("pre", m.command),
        facts(
            {
                "made": m.created,
                "commit": m.commit or "not in a repository",
                "machine": " · ".join(f"{k} {v}" for k, v in m.machine.items()),
                "computing time": seconds(m.seconds),
                "versions": " · ".join(f"{k} {v}" for k, v in m.versions.items()),
                "seeds": ", ".join(map(str, results.seeds)),
                "budget": _joined_budgets(results),
                "fingerprint": m.fingerprint,
            }
        ),
        tag("h3", "What is not the same for all"),
        _differences(results),
        *_cells("Runs that failed", results.failures),
        *_cells("Runs left out", results.excluded),
        id_="manifest",
    )


def _joined_budgets(results: Results) -> str:
    return "; ".join(
        f"{name}: {e.steps} steps × {e.samples_per_step} samples" for name, e in results.environments.items()
    )


def _differences(results: Results) -> Html:
    if not results.differences:
        return note("Nothing: all runs have the same settings.")
    ordered = sorted(results.differences, key=lambda d: not d.axis)
    names = list(dict.fromkeys(a for d in ordered for a in d.values))
    rows = [
        row([tag("code", d.key), "axis" if d.axis else "setting", *(d.values.get(a, "") for a in names)], set())
        for d in ordered
    ]
    return table(["setting", "", *names], rows, set())


def _cells(heading: str, cells: list[Failure]) -> list[Html]:
    if not cells:
        return []
    rows = [row([f.env, f.algorithm, f.seed, tag("code", f.folder), visible(f.reason)], {2}) for f in cells]
    return [tag("h3", heading), table(["environment", "algorithm", "seed", "folder", "reason"], rows, {2})]


# ---- pieces ----


def note(text: str) -> Html:
    """What a reader must know to read what follows."""
    return tag("p", text, class_="note")


def _name(algorithm: str, colours: Colours) -> Html:
    key = tag("span", class_=f"key {shade(colours[algorithm])}")
    return tag("span", key, algorithm, class_="name")


def _group(name: str, width: int) -> Html:
    return tag("tr", tag("td", tag("span", name), colspan=width), class_="group")


def _estimate(estimate: Estimate | None, *, sign: bool = False, strong: bool = False) -> Html:
    if estimate is None:
        return Html("–")
    value = number(estimate.value, sign=sign)
    ci = tag("span", interval(estimate, sign=sign), class_="ci") if estimate.low is not None else None
    return joined((tag("b", value) if strong else value, ci))


def _plain(estimate: Estimate | None, fine: int = 3) -> str:
    return number(None if estimate is None else estimate.value, fine=fine)


def _spread(spread: Spread) -> str:
    return " · ".join(number(v) for v in (spread.seeds, spread.prompts, spread.rest))


def _settings(given: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in given.items())


def _methods(results: Results) -> str:
    found = [
        (word, getattr(r, word).method)
        for e in results.environments.values()
        for r in e.algorithms.values()
        for word in ("mean", "iqm", "median")
    ]
    words = {word: method for word, method in found if method}
    return "; ".join(f"{'IQM' if word == 'iqm' else word}: {method}" for word, method in words.items())

"""Sections about policies: win rates, strengths, ranks, rankings, ratings, skips."""

from __future__ import annotations

from rlalign.feedback.report.cells import (
    Methods,
    estimate_table,
    integer,
    percent,
    plain,
    reason,
    shown,
)
from rlalign.feedback.report.drawings import MOST_ROWS, forest
from rlalign.feedback.report.values import Values
from rlalign.html.components import Colors, colored_name, note
from rlalign.html.markup import Html, joined, tag
from rlalign.html.page import panels, row, section, table


def win_rates(values: Values, colors: Colors, methods: Methods) -> Html | None:
    """Return the section of win rates; None without comparisons."""
    pairs = list(values["win_rates"]["pairs"])
    if not pairs:
        return None
    rows = [([_name(p, "first", colors), _name(p, "second", colors)], p) for p in pairs]
    drawn = [(f"{p.content['first']} – {p.content['second']}", _winner(p, colors), p) for p in pairs]
    implied = (
        " A ranking of several completions gives a comparison for each pair of them, and “votes” counts these."
        if values.content["kind"] == "ranking"
        else ""
    )
    parts: list[object] = [
        note(
            "The win rate of the first policy against the second: the mean of 1 for a win, 0 for a loss, and ½ for a "
            "tie or two bad completions. Above 50 %, the first is preferred. The interval for this panel holds for the "
            "people who voted; that for the population of annotators says what other people would prefer. Bold: the "
            "interval to quote. “Detects” is the smallest difference from 50 % that votes like these find with a "
            "probability of 80 %." + implied
        ),
        panels([forest("Win rates", drawn[:MOST_ROWS], "win rate of the first policy, %, 95 % CI", 0.5, 100.0)]),
        note(f"The drawing has the first {MOST_ROWS} pairs.") if len(drawn) > MOST_ROWS else "",
        estimate_table("win rates", ["first", "second"], rows, percent, methods),
    ]
    parts += _outcomes(pairs, colors)
    if len(pairs) > 1:
        parts += [
            tag("h3", "All pairs together"),
            note("Intervals that hold for all pairs at once, and the mean win rate of each policy over the others."),
            estimate_table(
                "simultaneous intervals", ["first", "second"],
                [([_name(p, "first", colors), _name(p, "second", colors)], p.get("simultaneous")) for p in pairs],
                percent, methods,
            ),
            estimate_table(
                "mean win rates", ["policy"],
                [([colored_name(a.content["policy"], colors)], a) for a in values["win_rates"]["averages"]],
                percent, methods,
            ),
            _cycles(values["win_rates"]),
        ]  # fmt: skip
    return section("Win rates", *parts, id_="win-rates")


def _winner(pair: Values, colors: Colors) -> int:
    """Return the color of the policy whose interval is on its side of one half; -1 if it holds one half."""
    main = pair.content[pair.content["headline"]]
    if main["low"] is not None and main["low"] > 0.5:
        return colors[pair.content["first"]]
    if main["high"] is not None and main["high"] < 0.5:
        return colors[pair.content["second"]]
    return -1


def _outcomes(pairs: list[Values], colors: Colors) -> list[object]:
    names = ("wins", "ties", "bad", "losses")
    head = ["first", "second", "first better", "tie", "both bad", "second better"]
    numeric = {2, 3, 4, 5}
    rows = [
        row([_name(p, "first", colors), _name(p, "second", colors), *(shown(p[n], integer) for n in names)], numeric)
        for p in pairs
    ]
    return [tag("h3", "Answers"), table("answers", head, rows, numeric)]


def _cycles(values: Values) -> Html:
    cycles = values.content["cycles"]
    if cycles:
        listed = "; ".join(" > ".join([*cycle, cycle[0]]) for cycle in cycles)
        return note(f"Cycles whose every preference holds with its interval: {listed}.")
    raw = shown(values["cycles_without_intervals"], integer)
    return tag("p", "No cycle of preferences holds with its intervals (without intervals: ", raw, ").", class_="note")


def order(values: Values, colors: Colors, methods: Methods) -> Html:
    """Return the section of ranks: the places that each policy can have, and all differences of strengths."""
    ranking = values["ranking"]
    if "refused" in ranking.content:
        return section("Order of the policies", tag("p", "No order: ", reason(ranking)), id_="order")
    return section("Order of the policies", *ranks(ranking, colors, methods), id_="order")


def ranks(ranking: Values, colors: Colors, methods: Methods) -> list[object]:
    """Return the tables of ranks and of differences."""
    numeric = {1, 2, 3, 4, 5, 6}
    rows = [
        row(
            [
                colored_name(p.content["policy"], colors),
                shown(p["best_rank"], integer),
                shown(p["worst_rank"], integer),
                shown(p["strength"], plain),
                *(shown(p[name], integer) for name in ("prompts", "people", "votes")),
                methods.mark(ranking),
            ],
            numeric,
        )
        for p in ranking["policies"]
    ]
    words = (
        "Each policy has all ranks from the best to the worst with which the intervals of the differences agree, for "
        "all policies at once, "
    )
    who = "for the population of annotators." if ranking.content["interval"] == "population" else "for this panel."
    head = ["policy", "best rank", "worst rank", "strength", "prompts", "people", "votes", "method"]
    differences = [([_name(d, "first", colors), _name(d, "second", colors)], d) for d in ranking["differences"]]
    return [
        note(words + who),
        table("ranks", head, rows, numeric),
        tag("h3", "Differences of strengths"),
        estimate_table("differences of strengths", ["first", "second"], differences, plain, methods),
    ]


def strengths(values: Values, colors: Colors, methods: Methods) -> Html:
    """Return the section of strengths by several models of ties, with and without terms for style."""
    part = values["strengths"]
    parts: list[object] = [
        note(
            "Log odds with mean 0: the difference of two strengths is the log odds that the first policy wins. The "
            "model with ties by Davidson is the main one; the others show how much the treatment of ties, the position "
            "on the screen, length and Markdown matter."
        )
    ]
    for name, fitted in [*part["models"].items(), *part["with_terms"].items()]:
        heading = name.capitalize() if name in part["models"].content else f"Davidson, with terms for {name}"
        parts.append(tag("h3", heading))
        parts += fit(fitted, colors, methods)
    return section("Strengths", *parts, id_="strengths")


def fit(fitted: Values, colors: Colors, methods: Methods) -> list[object]:
    """Return the tables of a fit: strengths, and the effects of its terms."""
    if "refused" in fitted.content:
        return [tag("p", reason(fitted))]
    rows = [([colored_name(s.content["policy"], colors), shown(s["elo"], integer)], s) for s in fitted["strengths"]]
    parts: list[object] = [estimate_table("strengths", ["policy", "Elo (picture)"], rows, plain, methods)]
    if fitted.content["terms"]:
        terms = [([t.content["term"]], t) for t in fitted["terms"]]
        parts.append(estimate_table("terms", ["term"], terms, plain, methods))
    tie = fitted.get("tie_parameter")
    likelihood = joined(("Log likelihood ", shown(fitted["log_likelihood"], plain)))
    return [
        *parts,
        tag("p", likelihood, *(() if tie is None else (", parameter of ties ", shown(tie, plain))), class_="note"),
    ]


def rankings(values: Values, colors: Colors, methods: Methods) -> Html:
    """Return the section of strengths from rankings."""
    part = values["rankings"]
    if "refused" in part.content:
        return section("Strengths from rankings", tag("p", reason(part)), id_="rankings")
    ordered = [tag("h3", "Ranks"), *ranks(part["ranking"], colors, methods)]
    return section("Strengths from rankings", *fit(part, colors, methods), *ordered, id_="rankings")


def ratings(values: Values, colors: Colors, methods: Methods) -> list[Html]:
    """Return a section for each scale of a study of ratings."""
    sections = []
    for name, part in values["ratings"].items():
        rows = [([_name(s, "first", colors), _name(s, "second", colors)], s) for s in part["superiority"]]
        parts: list[object] = [
            note("The probability that a random rating of the first policy is higher, with ties as one half."),
            estimate_table("probability of superiority", ["first", "second"], rows, percent, methods),
            tag("h3", "Ordinal model"),
        ]
        if "refused" in part["model"].content:
            parts.append(tag("p", reason(part["model"])))
        else:
            places = [([colored_name(e.content["policy"], colors)], e) for e in part["model"]["locations"]]
            parts.append(estimate_table("locations", ["policy"], places, plain, methods))
            parts += [tag("h3", "Ranks"), *ranks(part["ranking"], colors, methods)]
        sections.append(section(f"Scale “{name}”", *parts, id_=f"scale-{name}"))
    return sections


def rates(heading: str, words: str, values: Values, colors: Colors, methods: Methods) -> Html:
    """Return a section of a rate for all votes and for each policy, such as that of skips."""
    rows = [(["all" if r.content["policy"] is None else colored_name(r.content["policy"], colors)], r) for r in values]
    id_ = heading.lower().replace(" ", "-")
    return section(heading, note(words), estimate_table(heading, ["policy"], rows, percent, methods), id_=id_)


def sensitivity(values: Values, colors: Colors, methods: Methods) -> Html:
    """Return the section of the win rates without unreliable people and without votes that were too fast."""
    parts: list[object] = [note("Nobody is left out above. These are the win rates if some votes are left out.")]
    for name, part in values["without"].items():
        heading = f"Without {name.replace('_', ' ')}"
        if part.content is None:
            parts.append(tag("p", f"{heading}: no vote would be left out.", class_="note"))
            continue
        rows = [([_name(p, "first", colors), _name(p, "second", colors)], p) for p in part["win_rates"]["pairs"]]
        parts += [
            tag("h3", heading),
            tag("p", "Votes left out: ", shown(part["votes_left_out"], integer), class_="note"),
            estimate_table(heading, ["first", "second"], rows, percent, methods),
        ]
    return section("Sensitivity", *parts, id_="sensitivity")


def _name(values: Values, key: str, colors: Colors) -> Html:
    return colored_name(values.content[key], colors)

"""The sentences at the head of a report: each claim with its interval, whom it holds for, and the numbers behind it."""

from __future__ import annotations

import html
import re

from rlalign.feedback.report.cells import integer, interval, percent, shown
from rlalign.feedback.report.values import Values
from rlalign.html.markup import Html, tag

_WHO = {"population": "the population of annotators", "panel": "this panel of people"}


def verdict(values: Values) -> list[Html]:
    """Return the sentences as paragraphs.

    Args:
        values: of `rlalign.feedback.statistics.summary`.
    """
    kind = values.content["kind"]
    if kind == "rating":
        claims = [
            _claim(pair, f" on the scale {name}: probability of a higher rating, ties as one half, ")
            for name, part in values["ratings"].items()
            for pair in part["superiority"]
        ]
        return claims or [tag("p", "No two policies have ratings yet.")]
    pairs = list(values["win_rates"]["pairs"])
    if not pairs:
        return [tag("p", "No two policies have votes yet.")]
    missing = _without_votes(values)
    if len(pairs) == 1 and kind == "pair":
        return [_claim(pairs[0], ": win rate, ties as one half, "), *missing]
    ranking = values["ranking"]
    if kind == "ranking":
        rankings = values["rankings"]
        ranking = rankings if "refused" in rankings.content else rankings["ranking"]
    if "refused" in ranking.content:
        why = f"{ranking.content['refused']} ({ranking.content['detail']})"
        return [tag("p", f"The votes determine no order of the policies: {why}."), *missing]
    return [*_order(ranking), *missing]


def _order(ranking: Values) -> list[Html]:
    """Return the sentences of the ranks of all policies."""
    parts: list[object] = []
    for p in ranking["policies"]:
        best, worst = shown(p["best_rank"], integer), shown(p["worst_rank"], integer)
        ranks = [best] if p.content["best_rank"] == p.content["worst_rank"] else [best, "–", worst]
        parts += [p.content["policy"], ": rank ", *ranks, ". "]
    if not ranking.content["determined"]:
        parts.append("Other orders agree with the votes as well.")
    who = _WHO[ranking.content["interval"]]
    numbers = _numbers(ranking["policies"][0])
    return [tag("p", *parts), tag("p", f"95 % for all policies at once, for {who}; ", *numbers, ".")]


def _without_votes(values: Values) -> list[Html]:
    """Return the sentence that names the policies without votes; nothing if each has some."""
    pairs = values.content["win_rates"]["pairs"]
    judged = {pair[side] for pair in pairs for side in ("first", "second")}
    names = [name for name in values.content["policies"] if name not in judged]
    return [tag("p", f"Without votes: {', '.join(names)}.")] if names else []


def verdict_sentences(values: Values) -> tuple[str, ...]:
    """Return the sentences of `verdict` as plain text."""
    return tuple(html.unescape(re.sub("<[^>]*>", "", paragraph)) for paragraph in verdict(values))


def _claim(pair: Values, measure: str) -> Html:
    """Return the sentence of a comparison of two policies.

    Args:
        pair: its estimate.
        measure: text between the policies and the value.
    """
    names = f"{pair.content['first']} against {pair.content['second']}"
    if "panel" not in pair.content:
        return tag("p", f"{names}: {pair.content['refused']} ({pair.content['detail']}).")
    main = pair[pair.content["headline"]]
    low, high = main.content["low"], main.content["high"]
    if low is None or high is None:
        bounds: list[object] = [", no interval from so few prompts"]
    else:
        bounds = [", 95 % CI ", interval(main, percent)]
    undecided = low is None or high is None or low <= 0.5 <= high
    return tag(
        "p",
        names + measure,
        shown(main["value"], percent),
        *bounds,
        f", for {_WHO[pair.content['headline']]}; ",
        *_numbers(main),
        "." + (" The votes do not determine which of them is preferred." if undecided else ""),
    )


def _numbers(values: Values) -> list[object]:
    """Return the numbers of prompts, people and votes as a part of a sentence."""
    parts: list[object] = []
    for name, one in (("prompts", "prompt"), ("people", "person"), ("votes", "vote")):
        parts += [", " if parts else "", shown(values[name], integer), f" {one if values.content[name] == 1 else name}"]
    return parts

"""The sentences at the head of a report: each claim with its interval, whom it holds for, and the numbers behind it."""

from __future__ import annotations

import html
import re

from rlalign.feedback.report.cells import integer, interval, percent, reason, shown
from rlalign.feedback.report.values import Values
from rlalign.html.markup import Html, tag

_WHO = {"population": "the population of annotators", "panel": "this panel of people"}


def verdict(values: Values) -> list[Html]:
    """Return the sentences as paragraphs.

    Args:
        values: of `rlalign.feedback.statistics.summary`.
    """
    if values.content["kind"] == "rating":
        claims = [
            _claim(pair, "is rated above", f" on the scale {name}")
            for name, part in values["ratings"].items()
            for pair in part["superiority"]
        ]
        return claims or [tag("p", "No two policies have ratings yet.")]
    pairs = list(values["win_rates"]["pairs"])
    if not pairs:
        return [tag("p", "No two policies have votes yet.")]
    if len(pairs) == 1:
        return [_claim(pairs[0], "wins against", "")]
    ranking = values["ranking"]
    if "refused" in ranking.content:
        return [tag("p", "The votes give no order of the policies: ", reason(ranking), ".")]
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


def verdict_sentences(values: Values) -> tuple[str, ...]:
    """Return the sentences of `verdict` as plain text."""
    return tuple(html.unescape(re.sub("<[^>]*>", "", paragraph)) for paragraph in verdict(values))


def _claim(pair: Values, verb: str, end: str) -> Html:
    """Return the sentence of a comparison of two policies."""
    if "panel" not in pair.content:
        return tag("p", f"{pair.content['first']} and {pair.content['second']}{end}: ", reason(pair), ".")
    main = pair[pair.content["headline"]]
    low, high = main.content["low"], main.content["high"]
    undecided = low is None or high is None or low <= 0.5 <= high
    return tag(
        "p",
        f"{pair.content['first']} {verb} {pair.content['second']}{end} in ",
        shown(main["value"], percent),
        " of comparisons, 95 % CI ",
        interval(main, percent),
        f", for {_WHO[pair.content['headline']]}; ",
        *_numbers(main),
        "." + (" The votes do not determine which of them is preferred." if undecided else ""),
    )


def _numbers(values: Values) -> list[object]:
    """Return the numbers of prompts, people and votes as a part of a sentence."""
    parts: list[object] = []
    for name in ("prompts", "people", "votes"):
        parts += [", " if parts else "", shown(values[name], integer), f" {name}"]
    return parts

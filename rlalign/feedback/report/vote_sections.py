"""Sections about votes and people: counts, agreement, biases, reliability, planning."""

from __future__ import annotations

from rlalign.feedback.report.cells import (
    ESTIMATE_HEAD,
    Methods,
    estimate_cells,
    estimate_table,
    integer,
    interval,
    percent,
    plain,
    shown,
)
from rlalign.feedback.report.values import Values
from rlalign.html.components import group_row, note
from rlalign.html.markup import Html, tag
from rlalign.html.numbers import MISSING, p_value
from rlalign.html.page import facts, row, section, table

_AGREEMENT = {
    "alpha_nominal": ("Krippendorff's alpha, all answers", plain),
    "alpha_ordinal": ("Krippendorff's alpha, ordinal", plain),
    "alpha_interval": ("Krippendorff's alpha, interval", plain),
    "fleiss_kappa": ("Fleiss' kappa", plain),
    "cohen_kappa_mean": ("Cohen's kappa, mean of pairs of people", plain),
    "equal_answers": ("equal answers of two people", percent),
}


def counts(values: Values) -> Html:
    """Return the section of the numbers of votes."""
    part = values["counts"]
    names = {
        "prompts": "prompts (groups of near-duplicates)", "people": "people", "items": "items with votes",
        "votes": "votes", "skips": "skips", "gold": "answers to gold items", "repetitions": "repeated answers",
    }  # fmt: skip
    listed: dict[str, object] = {text: shown(part[name], integer) for name, text in names.items()}
    words = note("Votes are those that count: not undone, not withdrawn, no practice, gold item, repetition or skip.")
    return section("Votes", words, facts(listed), id_="votes")


def agreement(values: Values, methods: Methods) -> Html:
    """Return the section of agreement between people, and of people with themselves."""
    part = values["agreement"]
    scales = [("", part)] if values.content["kind"] != "rating" else list(part.items())
    head = ["measure", *ESTIMATE_HEAD]
    numeric = set(range(1, len(head)))
    rows: list[Html] = []
    for scale, measures in scales:
        if scale:
            rows.append(group_row(scale, len(head)))
        rows += [
            row([label, *estimate_cells(measures.get(name), text, methods)], numeric)
            for name, (label, text) in _AGREEMENT.items()
            if name in measures.content
        ]
    consistency = [([name], estimate) for name, estimate in values["consistency"].items()]
    parts: list[object] = [
        note(
            "Between people, on the same items and on the sides of the policies. Alpha and kappa are 1 for perfect "
            "agreement and 0 for agreement by chance. Intervals are bootstraps over prompts."
        ),
        table("agreement", head, rows, numeric),
        *_pairs_of_people(scales),
        tag("h3", "Self-consistency"),
        note("The share of repeated items that a person answers in the same way as before."),
        estimate_table("self-consistency", ["repetitions"], consistency, percent, methods),
    ]
    return section("Agreement", *parts, id_="agreement")


def _pairs_of_people(scales: list[tuple[str, Values]]) -> list[object]:
    parts: list[object] = []
    for scale, measures in scales:
        pairs = list(measures["cohen_kappas"])
        rows = [
            row([p.content["first"], p.content["second"], shown(p["kappa"], plain), shown(p["items"], integer)], {2, 3})
            for p in pairs
        ]
        if rows:
            name = f"Cohen's kappa of pairs of people{f', {scale}' if scale else ''} ({len(rows)})"
            drawn = table(name, ["first", "second", "kappa", "items"], rows, {2, 3})
            parts.append(tag("details", tag("summary", name), drawn))
    return parts


def biases(values: Values, methods: Methods) -> Html:
    """Return the section of position and length bias, and of votes that were too fast."""
    part = values["bias"]
    labels = {
        "position": ("votes for the left side", percent),
        "length_share": ("votes for the longer completion", percent),
        "length_effect": ("effect of length on the log odds", plain),
    }
    head = ["bias", "p", "found", *ESTIMATE_HEAD]
    numeric = {1, *range(3, len(head))}
    rows = []
    for name, (label, text) in labels.items():
        test = part.get(name)
        if test is None or "refused" in test.content:
            rows.append(row([label, MISSING, MISSING, *estimate_cells(test, text, methods)], numeric))
            continue
        found = "yes" if test.content["found"] else "no"
        if test.content["p"] is None:
            found = MISSING
        rows.append(row([label, shown(test["p"], p_value), found, *estimate_cells(test, text, methods)], numeric))
    return section(
        "Biases",
        note(
            "Decisive votes, with tests clustered by prompt and person. A bias towards length may be a preference for "
            "what longer completions say; the strengths with a term for length show what remains without it."
        ),
        table("biases", head, rows, numeric),
        id_="biases",
    )


def people(values: Values, methods: Methods) -> Html:
    """Return the section of the figures of each person."""
    part = values["people"]
    head = [
        "person", "votes", "skips", "seconds", "gold right", "gold items", "reliability", "left side", "p (Holm)", "",
    ]  # fmt: skip
    numeric = set(range(1, 9))
    rows = [_person(p) for p in part["people"]]
    used = [p["gold"] for p in part["people"] if p.content["gold"]][:1]
    used += [p["reliability"] for p in part["people"] if p.content["reliability"]][:1]
    used += [p["left_share"] for p in part["people"] if p.content["left_share"]][:1]
    parts: list[object] = [
        note(
            "Nobody is left out for these figures. Reliability is the probability that the person gives the answer "
            "that the model takes for the true one."
        ),
        table("people", head, rows, numeric),
        tag("p", part.content["rule"][:1].upper() + part.content["rule"][1:], ".", class_="note"),
        tag("p", "Methods: ", *[[methods.mark(e), " "] for e in used], class_="note"),
    ]
    model = part.get("model")
    if model is not None and not model.content["converged"]:
        parts.append(tag("p", "The model of reliability did not converge, and is not used.", class_="note"))
    random = part.get("random_answers")
    if random is not None:
        parts.append(tag("p", "Reliability of random answers: ", shown(random, plain), ".", class_="note"))
    fast = values["speed"]
    parts.append(
        tag(
            "p", "Votes that were too fast: ", shown(fast["fast_votes"], integer),
            f" ({fast.content['rule']}; {fast.content['source']}).", class_="note",
        )
    )  # fmt: skip
    return section("People", *parts, id_="people")


def _person(person: Values) -> Html:
    gold, reliability, left = person.get("gold"), person.get("reliability"), person.get("left_share")
    share = left[left.content["headline"]] if left is not None and "headline" in left.content else left
    remark = person.content["unreliable"] or ("fast" if person.content["fast"] else "")
    cells = [
        person.content["person"],
        shown(person["votes"], integer),
        shown(person["skips"], integer),
        shown(person["median_seconds"], plain),
        *([MISSING, MISSING] if gold is None else [_with_interval(gold), shown(gold["votes"], integer)]),
        MISSING if reliability is None else _with_interval(reliability),
        MISSING if share is None else _with_interval(share),
        shown(person["left_p_holm"], p_value),
        remark,
    ]
    return row(cells, set(range(1, 9)), {9})


def _with_interval(estimate: Values) -> list[object]:
    return [shown(estimate["value"], percent), " ", interval(estimate, percent)]


def planning(values: Values, methods: Methods) -> Html | None:
    """Return the section of the sample size; None without comparisons."""
    part = values.get("planning")
    if part is None:
        return None
    target = part["for_difference"]
    listed: dict[str, object] = {
        "variance of a score": shown(part["variance"], plain),
        "correlation of votes on a prompt": shown(part["prompt_correlation"], plain),
        "correlation of votes of a person": shown(part["person_correlation"], plain),
        "share of ties": shown(part["ties"], percent),
        "detected difference, this panel": _points(part["detectable"]["panel"]),
        "detected difference, population": _points(part["detectable"]["population"]),
        "votes per prompt and pair": shown(part["votes_per_prompt"], plain),
    }
    points = f"{100 * target.content['difference']:g} points"
    listed |= {
        f"prompts for {points}, this panel, with these people": _needed(target["panel_prompts"]),
        f"prompts for {points}, population, with these people": _needed(target["population_prompts"]),
        f"people for {points}, population, with these prompts": _needed(target["population_people"]),
    }
    return section(
        "Sample size",
        note(
            f"Per pair of policies, with power {percent(values.content['power'])}; {part.content['origin']}. "
            "Differences are those of a win rate from 50 %."
        ),
        facts(listed),
        tag("p", "Method: ", methods.mark(part), class_="note"),
        id_="planning",
    )


def _points(value: Values) -> Html:
    return shown(value, lambda x: MISSING if x is None else f"{100 * x:.1f} points")


def _needed(value: Values) -> object:
    return "not with any number" if value.content is None else shown(value, integer)

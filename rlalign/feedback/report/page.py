"""The page of a report, with the verdict first."""

from __future__ import annotations

from rlalign.feedback.report import policy_sections, vote_sections
from rlalign.feedback.report.cells import Methods, integer, shown
from rlalign.feedback.report.judges import judges_section
from rlalign.feedback.report.values import Values
from rlalign.feedback.report.verdict import verdict
from rlalign.html.markup import Html, tag
from rlalign.html.page import facts, page, section

_KINDS = {"pair": "Comparison of pairs", "rating": "Ratings", "ranking": "Rankings"}


def render(values: Values) -> str:
    """Return the report as one HTML document.

    Args:
        values: of `rlalign.feedback.report.contents`.
    """
    study, people = values["study"], values["people"]
    kind = people.content["kind"]
    colors = {policy: place for place, policy in enumerate(people.content["policies"])}
    methods = Methods()
    sections: list[Html | None] = []
    if kind == "rating":
        sections += policy_sections.ratings(people, colors, methods)
    else:
        if kind == "ranking":
            sections.append(policy_sections.rankings(people, colors, methods))
        sections.append(policy_sections.win_rates(people, colors, methods))
    if kind == "pair":
        bad = "“Both are bad” counts as a tie in comparisons. Its share of the votes says how good the policies are."
        sections += [
            policy_sections.order(people, colors, methods),
            policy_sections.strengths(people, colors, methods),
            policy_sections.rates("Both are bad", bad, people["bad"], colors, methods),
            vote_sections.biases(people, methods),
        ]
    skips = "Skips are missing data. If one policy is skipped more often, its figures are of selected items."
    sections += [
        vote_sections.agreement(people, methods),
        vote_sections.people(people, methods),
        policy_sections.sensitivity(people, colors, methods) if kind == "pair" else None,
        policy_sections.rates("Skips", skips, people["skips"], colors, methods),
        judges_section(values["judges"], methods),
        vote_sections.planning(people, methods),
        vote_sections.counts(people),
    ]
    title = study.content["name"]
    return page(title, _header(values), *sections, _study(study), _methods(methods))


def _header(values: Values) -> Html:
    study, people = values["study"], values["people"]
    size = [_count(people["counts"], name) for name in ("prompts", "people", "votes")]
    warnings = []
    if study.content["state"] != "complete":
        warnings.append(
            "The study is not complete. Figures of a study that ends when somebody likes them are wrong: an interval "
            "that is looked at until it excludes one half covers the truth in 72 % of studies instead of 95 %."
        )
    return tag(
        "header",
        tag("p", _KINDS[people.content["kind"]], class_="kind"),
        tag("h1", study.content["name"]),
        tag("p", size[0], " · ", size[1], " · ", size[2], f" · {values.content['created'][:10]}", class_="facts"),
        tag("div", verdict(people), class_="verdict", id_="verdict"),
        tag("ul", [tag("li", warning) for warning in warnings], class_="warn") if warnings else None,
    )


def _count(counts: Values, name: str) -> list[object]:
    return [shown(counts[name], integer), f" {name}"]


def _study(study: Values) -> Html:
    stop = study.content
    rule = f"{stop['votes_per_item']} votes per item"
    if stop["stop_votes"]:
        rule = f"{stop['stop_votes']} votes"
    elif stop["stop_width"]:
        rule = f"intervals narrower than {stop['stop_width']:g} points"
    return section(
        "Study",
        facts(
            {
                "state": study.content["state"],
                "created": study.content["created"],
                "ends with": rule,
                "items": shown(study["items"], integer),
                "complete items": shown(study["done_items"], integer),
                "votes": [shown(study["votes"], integer), " of ", shown(study["needed"], integer)],
                "looks at results before the end": shown(study["looks"], integer),
                "selection of items": study.content["selection"],
                "seed": study.content["seed"],
                "digest of the settings": study.content["config_hash"],
            }
        ),
        id_="study",
    )


def _methods(methods: Methods) -> Html:
    return section("Methods", methods.listing(), id_="methods")

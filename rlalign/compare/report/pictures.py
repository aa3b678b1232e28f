"""The pictures of a report, each under what a reader must know to read it."""

from __future__ import annotations

from rlalign.compare.report import figures
from rlalign.compare.report.html import Html, joined, tag
from rlalign.compare.report.page import panels, section
from rlalign.compare.report.pieces import Colours, name_of, note
from rlalign.compare.results import BUDGETS, Results


def pictures(results: Results, colours: Colours) -> Html:
    """All pictures; of the learning curves, the reader chooses the budget that they are drawn against."""
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
    return tag("ul", [tag("li", name_of(n, colours)) for n in names], class_="legend")

"""The pictures of a report, each under what a reader must know to read it."""

from __future__ import annotations

from rlalign.compare.output.html import figures
from rlalign.compare.output.html.html import Html, joined, tag
from rlalign.compare.output.html.page import panels, section
from rlalign.compare.output.html.pieces import Colours, name_of, note
from rlalign.compare.results.schema import BUDGETS, Results


def pictures(results: Results, colours: Colours) -> Html:
    """All pictures, environment by environment."""
    envs = results.environments
    shares = [
        figures.profiles(n, {a: r.profile for a, r in e.algorithms.items()}, colours, "final reward")
        for n, e in envs.items()
    ]
    if results.aggregate is not None and len(envs) > 1:
        shares.append(figures.profiles("all environments", results.aggregate.profile, colours, "scaled final reward"))
    return joined(
        (
            _curves(results, colours),
            _pictures(
                "Final reward, seed by seed",
                "Each pale dot is a seed, open where it failed; the full dot is the mean with its 95 % interval. "
                "Dashed: the mean before training.",
                [figures.final_scores(n, e, colours, results.seeds) for n, e in envs.items()],
                "seeds",
            ),
            _pictures(
                "Differences",
                "Paired, with 95 % confidence intervals before correction. Coloured where a winner is named. Of more "
                f"than {figures.MOST_PAIRS} pairs, those of the algorithm with the highest mean.",
                [figures.differences(n, e, colours) for n, e in envs.items() if e.pairs],
                "differences",
            ),
            _pictures(
                "Performance profiles",
                "Share of seeds whose final reward is above the value on the axis, with pointwise 95 % bands at the "
                "steps. A curve that lies above another everywhere dominates it.",
                shares,
                "profiles",
                tag("ul", [tag("li", name_of(a, colours)) for a in results.algorithms], class_="legend"),
            ),
            _pictures(
                "Reward against KL",
                "Mean course of training in the plane of reward and distance from the start; dots are single seeds at "
                "their end. Dashed: the level at which algorithms are compared at equal KL.",
                [f for n, e in envs.items() if (f := figures.frontier(n, e, colours, results.seeds)) is not None],
                "frontier",
            ),
        )
    )


def _pictures(heading: str, words: str, drawn: list[Html], id_: str, legend: Html | None = None) -> Html | None:
    return section(heading, note(words), legend, panels([*drawn]), id_=id_) if drawn else None


def _curves(results: Results, colours: Colours) -> Html:
    """The learning curves once for each budget; the reader chooses, and the style sheet shows one."""
    switch = [
        tag(
            "label",
            Html(f'<input type="radio" name="by" id="by-{b}"{" checked" if b == BUDGETS[0] else ""}>'),
            figures.BUDGET_WORDS[b],
        )
        for b in BUDGETS
    ]
    few = len(results.seeds) < figures.BAND_FROM
    bands = "thin lines are single seeds" if few else "bands are pointwise 95 % confidence intervals (Student’s t)"
    words = (
        f"Mean over seeds at equal steps, drawn against the mean budget spent by then; {bands}. "
        "Nothing is smoothed; a seed that failed counts as far as it went. "
        "Dashed: the threshold."
    )
    drawn = [
        panels([figures.learning_curves(n, e, colours, b) for n, e in results.environments.items()], f"by by-{b}")
        for b in BUDGETS
    ]
    return section(
        "Learning curves",
        note(words),
        tag("fieldset", switch, class_="switch", aria_label="budget"),
        *drawn,
        id_="curves",
    )

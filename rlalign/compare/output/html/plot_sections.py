"""Sections of a study's report that hold drawings, each with the words that a reader needs."""

from __future__ import annotations

from rlalign.compare.output.html import study_plots
from rlalign.compare.output.series import BUDGET_LABELS, MIN_SEEDS_FOR_BAND
from rlalign.compare.results.schema import BUDGETS, Results
from rlalign.html.components import Colors, colored_name, note
from rlalign.html.markup import Html, joined, tag
from rlalign.html.page import panels, section


def plot_sections(results: Results, colors: Colors) -> Html:
    """Return all sections with drawings, one drawing per environment in each."""
    envs = results.environments
    seeds = results.seeds
    frontiers = [study_plots.frontier(name, env, colors, seeds) for name, env in envs.items()]
    return joined(
        (
            _learning_curves(results, colors),
            _section(
                "Final reward per seed",
                "Each pale dot is a seed, an open dot a failed one. The full dot is the mean with its 95 % interval. "
                "Dashed: the mean before training.",
                [study_plots.final_scores(name, env, colors, seeds) for name, env in envs.items()],
                "seeds",
            ),
            _section(
                "Differences",
                "Paired by seed, with 95 % confidence intervals before correction. The color is that of a winner, if "
                f"named. Of more than {study_plots.MAX_PAIRS} pairs, those of the algorithm with the highest mean.",
                [study_plots.differences(name, env, colors) for name, env in envs.items() if env.pairs],
                "differences",
            ),
            _section(
                "Performance profiles",
                "Share of seeds whose final reward is above the value on the axis, with pointwise 95 % bands at the "
                "steps. A curve that lies above another everywhere dominates it.",
                _profiles(results, colors),
                "profiles",
                tag("ul", [tag("li", colored_name(a, colors)) for a in results.algorithms], class_="legend"),
            ),
            _section(
                "Reward against KL",
                "Mean reward and KL to the reference policy during training; dots are single seeds at their end. "
                "Dashed: the KL at which algorithms are compared at equal KL.",
                [drawing for drawing in frontiers if drawing is not None],
                "frontier",
            ),
        )
    )


def _section(heading: str, words: str, drawings: list[Html], id_: str, legend: Html | None = None) -> Html | None:
    return section(heading, note(words), legend, panels(drawings), id_=id_) if drawings else None


def _profiles(results: Results, colors: Colors) -> list[Html]:
    drawings = []
    for name, env in results.environments.items():
        profiles = {algorithm: result.profile for algorithm, result in env.algorithms.items()}
        drawings.append(study_plots.performance_profiles(name, profiles, colors, "final reward"))
    if results.aggregate is not None and len(results.environments) > 1:
        profiles = results.aggregate.profile
        drawings.append(study_plots.performance_profiles("all environments", profiles, colors, "rescaled final reward"))
    return drawings


def _learning_curves(results: Results, colors: Colors) -> Html:
    """Return the learning curves once per budget; the style sheet shows the budget that the reader selects."""
    options = [
        tag(
            "label",
            Html(f'<input type="radio" name="by" id="by-{budget}"{" checked" if budget == BUDGETS[0] else ""}>'),
            BUDGET_LABELS[budget],
        )
        for budget in BUDGETS
    ]
    few = len(results.seeds) < MIN_SEEDS_FOR_BAND
    bands = "thin lines are single seeds" if few else "bands are pointwise 95 % confidence intervals (Student’s t)"
    words = (
        f"Mean over seeds at equal steps, against the mean budget spent until then; {bands}. Nothing is smoothed. "
        "A failed seed counts up to its last step. Dashed: the threshold."
    )
    by_budget = []
    for budget in BUDGETS:
        drawings = [study_plots.learning_curves(n, env, colors, budget) for n, env in results.environments.items()]
        by_budget.append(panels(drawings, f"by by-{budget}"))
    return section(
        "Learning curves",
        note(words),
        tag("fieldset", options, class_="switch", aria_label="budget"),
        *by_budget,
        id_="curves",
    )

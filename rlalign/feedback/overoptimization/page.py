"""The page of over-optimization: the sentences, a drawing and a table of each group of runs, and the methods."""

from __future__ import annotations

from typing import Any

from rlalign.feedback.report.cells import integer, plain, shown
from rlalign.feedback.report.values import Values
from rlalign.html.components import note
from rlalign.html.markup import Html, joined, tag
from rlalign.html.numbers import MISSING, number, typeset
from rlalign.html.page import page, panels, row, section, table
from rlalign.html.svg import Panel, Series, axis_range

_PROXY, _GOLD = 0, 1  # colors
_COLORS = {"proxy": _PROXY, "gold": _GOLD}
_SOURCES = {
    "held-out": "validations on held-out prompts",
    "training": "training samples",
    "best of n": "best-of-n of the initial policy, on held-out prompts",
}
_FORMS = {"best_of_n": "R(d) = d (α − β d)", "rl": "R(d) = d (α − β log d)"}
_METHODS = (
    "d is the square root of the KL to the initial policy in nats per completion. R is the reward minus that of the "
    "initial policy, so that R(0) = 0. Both forms are of Gao et al. 2022 (2210.10760): d (α − β d) for best-of-n, "
    "largest at α/2β, and d (α − β log d) for reinforcement learning, largest at exp(α/β − 1). They are fitted by "
    "least squares to the points of all seeds.",
    "Intervals are 95 % percentiles over resampled seeds; the seed is the unit, because the points of one run depend "
    "on each other. “beyond” means that more than 2.5 % of the resampled fits do not turn within the range of the "
    "data. “Largest measured” is the median over seeds of the KL with the largest reward; it needs no form and is "
    "noisy.",
    "The KL of best-of-n is the upper bound log n − (n − 1)/n (Beirami et al. 2024, 2401.01879). Its rewards are "
    "unbiased estimates by order statistics (Nakano et al. 2021, 2112.09332). The KL of a trained policy is the mean "
    "log-ratio of its samples.",
)


def render(content: dict[str, Any]) -> str:
    """Return the page as one HTML document.

    Args:
        content: of `rlalign.feedback.overoptimization.contents`.
    """
    values = Values(content)
    title = "Over-optimization"
    warnings = [tag("li", typeset(text)) for text in content["notes"]]
    header = tag(
        "header",
        tag("p", "Proxy and gold reward against KL", class_="kind"),
        tag("h1", title),
        tag("p", f"proxy: {content['proxy']} · gold: {content['gold']} · {content['created'][:10]}", class_="facts"),
        tag("div", [tag("p", typeset(text)) for text in content["verdict"]], class_="verdict", id_="verdict"),
        tag("ul", warnings, class_="warn") if warnings else None,
    )
    methods = section("Methods", [tag("p", typeset(text)) for text in _METHODS], id_="methods")
    return page(title, header, *[_group(group) for group in values["groups"]], methods)


def _group(group: Values) -> Html:
    content = group.content
    seeds = len(content["runs"])
    text = f"{seeds} seed{'s' if seeds > 1 else ''}; {_SOURCES[content['source']]}; {_FORMS[content['form']]}."
    return section(
        content["name"],
        note(text),
        panels([_drawing(content, "proxy"), _drawing(content, "gold")]),
        None if content["fits"] is None else _fits(group),
        _points(group),
    )


def _drawing(content: dict[str, Any], reward: str) -> Html:
    """Return the points of all seeds with the fitted line and its band."""
    points = [point for run in content["runs"] for point in run["points"] if None not in (point["d"], point[reward])]
    fit = (content["fits"] or {}).get(reward)
    edges: list[float | None] = [point[reward] for point in points]
    if fit:
        edges += fit["line"]["value"]
    x = axis_range([point["d"] for point in points], zero=True)
    panel = Panel(x=x, y=axis_range([*edges, 0.0]), title=f"{reward}, R − R(0)", x_label="√KL to the initial policy")
    panel.grid()
    panel.reference_line(y=0.0)
    color = _COLORS[reward]
    if fit:
        line = fit["line"]
        series = Series(f"{reward}, fit", color, line["d"], line["value"], line["low"], line["high"])
        panel.band(series)
        panel.line(line["d"], line["value"], color)
        panel.hover.append(series)
        if fit["turn"]["outcome"] == "turned":
            panel.reference_line(x=fit["turn"]["d"]["value"])
    for run in content["runs"]:
        for point in run["points"]:
            if None not in (point["d"], point[reward]):
                place = f"seed {run['seed']}, {'n' if content['form'] == 'best_of_n' else 'step'} {point['place']}"
                panel.dot(point["d"], point[reward], color, note=f"{place}: {number(point[reward])}")
    return panel.svg()


def _fits(group: Values) -> Html:
    head = ["", "α", "95 % CI", "β", "95 % CI", "R²", "points", "turning point", "at KL", "95 % CI", "in range"]
    head += ["largest measured at KL", "seeds from, to"]
    rows = []
    for reward, fit in group["fits"].items():
        turn = fit["turn"]
        rows.append(
            row(
                [
                    reward,
                    shown(fit["alpha"]["value"], plain),
                    _interval(fit["alpha"]),
                    shown(fit["beta"]["value"], plain),
                    _interval(fit["beta"]),
                    shown(fit["r2"], plain),
                    shown(fit["points"], integer),
                    turn.content["outcome"],
                    shown(turn["kl"]["value"], plain) if turn.content["outcome"] == "turned" else MISSING,
                    _interval(turn["kl"], beyond=turn.content["share_in_range"] is not None),
                    shown(turn["share_in_range"], _percent),
                    shown(group["measured"][reward]["value"], plain),
                    _interval(group["measured"][reward]),
                ],
                set(range(1, len(head))) - {7},
            )
        )
    return table("fits", head, rows, set(range(1, len(head))) - {7})


def _interval(estimate: Values, *, beyond: bool = False) -> Html:
    """Return `[low, high]`; a missing bound of a turning point is beyond the data."""

    def text(value: float | None) -> str:
        return "beyond" if value is None and beyond else plain(value)

    return joined(("[", shown(estimate["low"], text), ", ", shown(estimate["high"], text), "]"))


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{number(100 * value, decimals=0)} %"


def _points(group: Values) -> Html:
    place = "n" if group.content["form"] == "best_of_n" else "step"
    head = ["seed", place, "KL", "√KL", "proxy − start", "gold − start"]
    rows = [
        row(
            [shown(run["seed"], integer), *(shown(point[name], text) for name, text in _CELLS)],
            set(range(1, len(head))),
        )
        for run in group["runs"]
        for point in run["points"]
    ]
    return tag("details", tag("summary", f"{len(rows)} points"), table("points", head, rows, set(range(1, len(head)))))


_CELLS = (("place", integer), ("kl", plain), ("d", plain), ("proxy", plain), ("gold", plain))

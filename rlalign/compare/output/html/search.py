"""The report of a hyperparameter search: the best settings, reward against each searched setting, all trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlalign.compare.analysis.verdict import count
from rlalign.compare.study import label
from rlalign.compare.tuning.search_results import SearchResults, Trial, read_search_results
from rlalign.compare.tuning.spaces import choices
from rlalign.config.defaults import default_config
from rlalign.config.overrides import shown
from rlalign.config.serialize import to_dict
from rlalign.html.components import note
from rlalign.html.markup import Html, tag
from rlalign.html.numbers import number, typeset
from rlalign.html.page import facts, page, panels, row, section, table
from rlalign.html.rows import row_label, row_panel
from rlalign.html.svg import Panel, axis_range
from rlalign.storage.atomic import write_atomic
from rlalign.typecheck import flatten

_STATES = {"complete": "finished", "pruned": "pruned", "fail": "failed", "running": "not finished"}


def write_search_report(folder: Path) -> Path:
    """Write report.html of a search's folder atomically and return its path."""
    return write_atomic(folder / "report.html", render(read_search_results(folder)))


def render(results: SearchResults) -> str:
    """Return the report as one HTML document."""
    base = results.base
    title = f"{base.algorithm} on {label(base.env)}"
    parts = [count(len(results.trials), "trial")]
    for state in ("pruned", "fail", "running"):
        trials = results.count(state)
        if trials:
            parts.append(f"{trials} {_STATES[state]}")
    parts.append(f"policy {base.policy}")
    parts.append(f"{base.steps} steps")
    parts.append(f"{base.evaluation.prompts} {base.evaluation.split} prompts")
    header = tag(
        "header",
        tag("p", "Hyperparameter search", class_="kind"),
        tag("h1", title),
        tag("p", " · ".join(parts), class_="facts"),
        tag("div", [tag("p", typeset(s)) for s in _verdict(results)], class_="verdict", id_="verdict"),
    )
    return page(title, header, _best(results), _drawings(results), _trials(results), _base(results))


def _verdict(results: SearchResults) -> list[str]:
    if not results.done:
        return ["No trial finished."]
    best = results.best
    initial = "" if results.start is None else f", {number(results.start)} before training"
    sentences = [f"Trial {best.number} has the highest held-out reward: {number(best.value)}{initial}."]
    share = results.sensitivity
    if share is None:
        sentences.append("No trial improved the reward.")
    else:
        sentences.append(
            f"{100 * share:.0f} % of the trials reached at least 95 % of its improvement: the lower this share, the "
            "more the result depends on the settings."
        )
    sentences.append(
        "Each trial is one seed, and the best of many is partly chance: use rlalign compare to confirm the settings."
    )
    return sentences


def _best(results: SearchResults) -> Html | None:
    if not results.done:
        return None
    base = flatten(to_dict(results.base))
    rows = []
    for key, space in results.search.items():
        best = tag("b", shown(results.best.settings.get(key)))
        rows.append(row([tag("code", key), best, shown(base.get(key)), space], {1, 2}))
    content = table("best settings", ["setting", "best", "default", "searched"], rows, {1, 2})
    return section("Best settings", content, id_="best")


def _drawings(results: SearchResults) -> Html | None:
    if not any(trial.value is not None for trial in results.trials):
        return None
    words = "Full dots: finished trials. Open dots: the last reward of pruned trials. Dashed: before training."
    drawings = [_in_order(results), *(_against(results, key) for key in results.search)]
    return section("Reward against each setting", note(words), panels(drawings), id_="settings")


def _in_order(results: SearchResults) -> Html:
    """Draw the trials in order, and the best reward so far as a line."""
    finished = [(float(t.number), t.value) for t in results.trials if t.state == "complete" and t.value is not None]
    best_so_far = list(itertools.accumulate((value for _, value in finished), max))
    panel = Panel(
        x=axis_range([trial.number for trial in results.trials]),
        y=_reward_range(results),
        x_label="trial",
        title="in order; line: best so far",
    )
    panel.grid()
    panel.reference_line(y=results.start)
    panel.line([x for x, _ in finished], best_so_far, 0)
    for trial in results.trials:
        if trial.value is not None:
            _dot(panel, trial.number, trial.value, trial, results)
    return panel.svg()


def _against(results: SearchResults, key: str) -> Html:
    """Draw reward against one setting: along an axis for a range, in rows for a choice."""
    kind = results.search[key].partition(":")[0]
    trials = [trial for trial in results.trials if trial.value is not None and key in trial.settings]
    if kind == "choice":
        return _against_choice(results, key, trials)
    log = kind == "log"
    xs = [math.log10(t.settings[key]) if log else float(t.settings[key]) for t in trials]
    panel = Panel(x=axis_range(xs), y=_reward_range(results), x_label=f"log10 of {key}" if log else key, title=key)
    panel.grid()
    panel.reference_line(y=results.start)
    for x, trial in zip(xs, trials, strict=True):
        _dot(panel, x, trial.value, trial, results)
    return panel.svg()


def _against_choice(results: SearchResults, key: str, trials: Sequence[Trial]) -> Html:
    values = choices(results.search[key])
    names = [shown(value) for value in values]
    panel = row_panel(key, names, _reward_range(results))
    panel.x_label = "held-out reward"
    panel.grid(horizontal=False, vertical=True)
    panel.reference_line(x=results.start)
    for i, name in enumerate(names):
        row_label(panel, -float(i), name)
    for trial in trials:
        _dot(panel, trial.value, -float(values.index(trial.settings[key])), trial, results)
    return panel.svg()


def _dot(panel: Panel, x: Any, y: Any, trial: Trial, results: SearchResults) -> None:
    settings = [f"{key} {shown(value)}" for key, value in trial.settings.items()]
    words = ", ".join([f"trial {trial.number}: {number(trial.value)}", *settings])
    if results.done and trial.number == results.best.number:
        panel.dot(x, y, 0, class_="dot", r=4.6, note=words)
    else:
        panel.dot(x, y, 0, class_="seed" if trial.state == "complete" else "seed failed", r=3.2, note=words)


def _trials(results: SearchResults) -> Html:
    numeric = set(range(len(results.search) + 2))
    best_first = [*results.done, *(trial for trial in results.trials if trial not in results.done)]
    rows = []
    for trial in best_first:
        settings = [shown(trial.settings.get(key)) for key in results.search]
        state = _STATES.get(trial.state, trial.state)
        rows.append(row([trial.number, number(trial.value), *settings, state], numeric))
    content = table("trials", ["trial", "reward", *results.search, "state"], rows, numeric)
    return section("Trials, best first", content, id_="trials")


def _base(results: SearchResults) -> Html:
    """Return the settings of all trials that differ from the defaults of this environment, policy and algorithm."""
    base = results.base
    defaults = flatten(to_dict(default_config(base.env, base.policy, base.algorithm)))
    searched_or_output = ("output", *results.search)
    values: dict[str, object] = {"environment": base.env, "policy": base.policy, "algorithm": base.algorithm}
    for key, value in flatten(to_dict(base)).items():
        if defaults.get(key) != value and key not in searched_or_output:
            values[key] = shown(value)
    return section("Settings of all trials", facts(values), id_="manifest")


def _reward_range(results: SearchResults) -> tuple[float, float]:
    return axis_range([results.start, *(trial.value for trial in results.trials)])

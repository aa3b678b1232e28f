"""report.html of a search: the best setting, reward against each setting that was searched, all trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlalign.compare.analysis.verdict import count
from rlalign.compare.output.html.html import Html, tag
from rlalign.compare.output.html.numbers import number, typeset
from rlalign.compare.output.html.page import facts, page, panels, row, section, table
from rlalign.compare.output.html.pieces import note
from rlalign.compare.output.html.svg import WIDTH, Panel, room, span
from rlalign.compare.study import label
from rlalign.compare.tuning.search_results import SearchResults, Trial, read_search_results
from rlalign.compare.tuning.spaces import choices
from rlalign.config.defaults import default_config
from rlalign.config.overrides import shown
from rlalign.config.serialize import to_dict
from rlalign.storage.atomic import write_atomic
from rlalign.typecheck import flatten

_STATES = {"complete": "ended", "pruned": "pruned", "fail": "failed", "running": "not ended"}
_ROW = 26.0


def write_search_report(folder: Path) -> Path:
    """Write report.html of a search's folder, whole or not at all, and return its path."""
    return write_atomic(folder / "report.html", render(read_search_results(folder)))


def render(found: SearchResults) -> str:
    """The report as one HTML document."""
    base = found.base
    title = f"{base.algorithm} on {label(base.env)}"
    parts = [count(len(found.trials), "trial")]
    parts += [f"{n} {_STATES[state]}" for state in ("pruned", "fail", "running") if (n := found.count(state))]
    parts += [
        f"policy {base.policy}",
        f"{base.steps} steps",
        f"{base.evaluation.prompts} {base.evaluation.split} prompts",
    ]
    header = tag(
        "header",
        tag("p", "A search for settings", class_="kind"),
        tag("h1", title),
        tag("p", " · ".join(parts), class_="facts"),
        tag("div", [tag("p", typeset(s)) for s in _verdict(found)], class_="verdict", id_="verdict"),
    )
    return page(title, header, _best(found), _pictures(found), _trials(found), _base(found))


def _verdict(found: SearchResults) -> list[str]:
    if not found.done:
        return ["No trial finished."]
    best, share = found.best, found.sensitivity
    start = "" if found.start is None else f", from {number(found.start)} before training"
    said = [f"Trial {best.number} ended highest: {number(best.value)} held-out reward{start}."]
    if share is None:
        said.append("No trial ended above the start.")
    else:
        said.append(
            f"{100 * share:.0f} % of the trials gained at least 95 % of what it gained: the fewer, the more depends on "
            "the settings."
        )
    return [*said, "A trial is one seed, and the best of many is lucky as well: confirm it with rlalign compare."]


def _best(found: SearchResults) -> Html | None:
    if not found.done:
        return None
    base = flatten(to_dict(found.base))
    rows = [
        row([tag("code", key), tag("b", shown(found.best.settings.get(key))), shown(base.get(key)), space], {1, 2})
        for key, space in found.search.items()
    ]
    return section(
        "Best settings", table("best settings", ["setting", "best", "default", "searched"], rows, {1, 2}), id_="best"
    )


def _pictures(found: SearchResults) -> Html | None:
    if not any(t.value is not None for t in found.trials):
        return None
    words = "Full: trials that ended; open: the last that was seen of those that were pruned. Dashed: before training."
    drawn = [_course(found), *(_against(found, key) for key in found.search)]
    return section("Reward against each setting", note(words), panels([*drawn]), id_="settings")


def _course(found: SearchResults) -> Html:
    """Trial after trial, and the best so far."""
    ended = [(float(t.number), t.value) for t in found.trials if t.state == "complete" and t.value is not None]
    best = list(itertools.accumulate((value for _, value in ended), max))
    panel = Panel(
        x=span([t.number for t in found.trials]),
        y=_rewards(found),
        x_label="trial",
        title="in order; line: best so far",
    )
    panel.grid()
    panel.rule(y=found.start)
    panel.line([x for x, _ in ended], best, 0)
    for t in found.trials:
        if t.value is not None:
            _dot(panel, t.number, t.value, t, found)
    return panel.svg()


def _against(found: SearchResults, key: str) -> Html:
    """Reward against one setting: along a range, or row by row of a choice."""
    kind = found.search[key].partition(":")[0]
    seen = [t for t in found.trials if t.value is not None and key in t.settings]
    if kind == "choice":
        return _rows(found, key, seen)
    log = kind == "log"
    xs = [math.log10(t.settings[key]) if log else float(t.settings[key]) for t in seen]
    panel = Panel(x=span(xs), y=_rewards(found), x_label=f"log10 of {key}" if log else key, title=key)
    panel.grid()
    panel.rule(y=found.start)
    for x, t in zip(xs, seen, strict=True):
        _dot(panel, x, t.value, t, found)
    return panel.svg()


def _rows(found: SearchResults, key: str, seen: Sequence[Trial]) -> Html:
    values = choices(found.search[key])
    names = [shown(value) for value in values]
    left = min(room(names) - 2, WIDTH * 0.45)
    panel = Panel(
        x=_rewards(found), y=(0.5 - len(names), 0.5), x_label="held-out reward", title=key,
        height=30 + _ROW * len(names) + 44, left=left, top=26,
    )  # fmt: skip
    panel.grid(horizontal=False, vertical=True)
    panel.rule(x=found.start)
    for i, name in enumerate(names):
        panel.text(left - 8, panel.at_y(-i) + 4, name, "tick end name")
    for t in seen:
        _dot(panel, t.value, -float(values.index(t.settings[key])), t, found)
    return panel.svg()


def _dot(panel: Panel, x: Any, y: Any, trial: Trial, found: SearchResults) -> None:
    kind = "seed" if trial.state == "complete" else "seed failed"
    is_best = bool(found.done) and trial.number == found.best.number
    words = [f"trial {trial.number}: {number(trial.value)}", *(f"{k} {shown(v)}" for k, v in trial.settings.items())]
    panel.dot(x, y, 0, class_="dot" if is_best else kind, r=4.6 if is_best else 3.2, note=", ".join(words))


def _trials(found: SearchResults) -> Html:
    numeric = set(range(len(found.search) + 2))
    ordered = [*found.done, *(t for t in found.trials if t not in found.done)]
    rows = []
    for t in ordered:
        settings = [shown(t.settings.get(key)) for key in found.search]
        rows.append(row([t.number, number(t.value), *settings, _STATES.get(t.state, t.state)], numeric))
    return section(
        "Trials, best first", table("trials", ["trial", "reward", *found.search, "state"], rows, numeric), id_="trials"
    )


def _base(found: SearchResults) -> Html:
    """What all trials have, where it is not the default of this environment, policy and algorithm."""
    base = found.base
    usual = flatten(to_dict(default_config(base.env, base.policy, base.algorithm)))
    own = {k: v for k, v in flatten(to_dict(base)).items() if usual.get(k) != v and k not in ("output", *found.search)}
    told: dict[str, object] = {"environment": base.env, "policy": base.policy, "algorithm": base.algorithm}
    return section("What all trials have", facts(told | {k: shown(v) for k, v in own.items()}), id_="manifest")


def _rewards(found: SearchResults) -> tuple[float, float]:
    return span([found.start, *(t.value for t in found.trials)])

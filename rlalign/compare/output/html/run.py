"""report.html of a single run: what it learnt, before and after, completions, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.compare.output.html.html import Html, joined, tag
from rlalign.compare.output.html.numbers import interval, number, typeset
from rlalign.compare.output.html.page import facts, page, panels, row, section, table
from rlalign.compare.output.html.pieces import note, said
from rlalign.compare.output.html.svg import Panel, Series, span
from rlalign.compare.results.schema import Estimate
from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage.atomic import read_json, write_atomic
from rlalign.storage.checkpoint import versions
from rlalign.typecheck import flatten

_SAMPLES = 8
_OWN = ("reward/mean", "reward/std", "reward/ci95", "reward/invalid")


def write_run_report(run: Run) -> Path:
    """Write report/report.html of a run folder and return its path. Raises UserError for a run without a step."""
    if not run.metrics.get("reward/mean"):
        raise UserError(f"'{run.folder}' has no finished step to report")
    return write_atomic(run.folder / "report" / "report.html", render(run))


def render(run: Run) -> str:
    """The report as one HTML document."""
    config, found = run.config, _evaluation(run.folder)
    title = f"{config.algorithm} on {config.env}"
    done = len(run.metrics["reward/mean"])
    facts_line = f"policy {config.policy} · seed {config.seed} · {done} of {config.steps} steps · {run.folder.name}"
    unfinished = "The run is not finished: nothing was measured on held-out prompts after training."
    header = tag(
        "header",
        tag("p", "One run", class_="kind"),
        tag("h1", title),
        tag("p", facts_line, class_="facts"),
        tag("div", tag("p", typeset(found["verdict"]) if found else unfinished), class_="verdict", id_="verdict"),
    )
    return page(
        title,
        header,
        _alarms(run.folder),
        _before_after(found) if found else None,
        section(
            "Training",
            note("Every step as it was; bands are 95 % confidence intervals over the step’s samples."),
            panels(_pictures(run.metrics)),
            id_="curves",
        ),
        _samples(found["samples"]) if found else None,
        _settings(config),
    )


def _evaluation(folder: Path) -> dict[str, Any] | None:
    path = folder / "report" / "evaluation.json"
    found: dict[str, Any] | None = None
    if path.is_file():
        found = read_json(path, f"rlalign train --resume {folder} measures it again")
    return found


def _alarms(folder: Path) -> Html | None:
    path = folder / "report" / "alarms.json"
    if not path.is_file():
        return None
    raised = read_json(path, "remove it, and the report is made without it")
    rows = [row([name, _steps(alarm["held"]), alarm["says"]], set(), {2}) for name, alarm in raised.items()]
    return section(
        "Alarms",
        note("Patterns that reward hacking is known to show, and the steps at which each was there. Look there."),
        table("alarms", ["alarm", "steps", "what was seen"], rows, set()),
        id_="alarms",
    )


def _steps(held: list[list[int | None]]) -> str:
    """`12 to 40, from 66 to the end`."""
    return ", ".join(f"{first} to {last}" if last else f"from {first} to the end" for first, last in held)


def _before_after(found: Mapping[str, Any]) -> Html:
    rows = [
        row(
            [
                tag("b", name) if name == "reward" else name,
                number(m["before"]),
                number(m["after"]),
                _difference(m["difference"]),
                m["difference"]["n"],
            ],
            {1, 2, 3, 4},
        )
        for name, m in found["metrics"].items()
    ]
    return section(
        "Before and after",
        note("Means over held-out prompts, the same for both; differences are paired, with 95 % CI (Student’s t)."),
        table("before and after", ["metric", "before", "after", "difference", "prompts"], rows, {1, 2, 3, 4}),
        id_="finals",
    )


def _difference(d: Mapping[str, Any]) -> Html:
    estimate = Estimate(d["mean"], d["low"], d["high"])
    return joined((number(d["mean"], sign=True), tag("span", interval(estimate, sign=True), class_="ci")))


def _pictures(metrics: Mapping[str, Sequence[float | None]]) -> list[Html | None]:
    """Reward with its band and the held-out reward; then each component, the KL, length and entropy by themselves."""
    half = metrics.get("reward/ci95", [])
    held_out = metrics.get("eval/reward")
    pictures: list[Html | None] = [_curve(metrics, "reward/mean", "reward", half, held_out)]
    components = [n for n in metrics if n.startswith("reward/") and n not in _OWN]
    more = ["rollout/kl", "rollout/length", "rollout/entropy"]
    words = {
        "rollout/kl": "KL to the start, nats",
        "rollout/length": "tokens",
        "rollout/entropy": "entropy, nats a token",
    }
    pictures += [_curve(metrics, n, words.get(n, n.removeprefix("reward/"))) for n in [*components, *more]]
    return pictures


def _curve(
    metrics: Mapping[str, Sequence[float | None]],
    name: str,
    title: str,
    half: Sequence[float | None] = (),
    held_out: Sequence[float | None] | None = None,
) -> Html | None:
    y = [None if v is None or not math.isfinite(v) else v for v in metrics.get(name, [])]
    if all(v is None for v in y):
        return None
    x = [float(v) for v in metrics["step"] if v is not None]
    low = [None if v is None or h is None else v - h for v, h in zip(y, half, strict=False)]
    high = [None if v is None or h is None else v + h for v, h in zip(y, half, strict=False)]
    main = Series(title, 0, x, y, low or [None] * len(x), high or [None] * len(x))
    panel = Panel(
        x=span(x, zero=True, margin=0.0),
        y=span([*y, *low, *high, *(held_out or [])]),
        x_label="step",
        title=title,
        right=78 if held_out else 14,
    )
    panel.grid()
    panel.band(main)
    panel.line(x, y, 0)
    panel.hover = [main]
    if held_out:
        seen = [(a, b) for a, b in zip(x, held_out, strict=False) if b is not None]
        panel.line([a for a, _ in seen], [b for _, b in seen], 1)
        panel.labels([("training", 0, x[-1], _last(y)), ("held-out", 1, seen[-1][0], seen[-1][1])] if seen else [])
        other = Series(
            "held-out", 1, [a for a, _ in seen], [b for _, b in seen], [None] * len(seen), [None] * len(seen)
        )
        panel.hover = [main, other]
    return panel.svg()


def _last(values: Sequence[float | None]) -> float:
    return next(v for v in reversed(values) if v is not None)


def _samples(samples: Sequence[Mapping[str, Any]]) -> Html:
    blocks = [
        tag(
            "div",
            said(tag("h4", "prompt"), str(s["prompt"])),
            tag(
                "div",
                said(tag("h4", "before"), s["before"][0]),
                said(tag("h4", "after", class_="name"), s["after"][0]),
                class_="texts",
            ),
            class_="sample",
        )
        for s in samples[:_SAMPLES]
    ]
    return section("Completions before and after", note("The first held-out prompts."), *blocks, id_="samples")


def _settings(config: TrainConfig) -> Html:
    """What differs from the defaults for this environment, policy and algorithm; the rest follows from the command."""
    usual = flatten(to_dict(default_config(config.env, config.policy, config.algorithm)))
    own = flatten(to_dict(config))
    changed = {k: v for k, v in own.items() if usual.get(k) != v and k not in ("output", "resume", "allow_change")}
    rows = [row([tag("code", k), str(v), str(usual.get(k))], set()) for k, v in sorted(changed.items())]
    return section(
        "Manifest",
        facts({"folder": config.output or "", "versions": " · ".join(f"{k} {v}" for k, v in versions().items())}),
        tag("h3", "Settings other than the defaults"),
        table("settings", ["setting", "here", "default"], rows, set()) if rows else note("None."),
        id_="manifest",
    )

"""The report of a single run: verdict, alarms, before and after, training curves, completions, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlalign.compare.results.schema import Estimate
from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.errors import UserError
from rlalign.evaluation.transcripts import prompt_text, sample_texts
from rlalign.html.components import note, titled_text
from rlalign.html.markup import Html, joined, tag
from rlalign.html.numbers import interval, number, typeset
from rlalign.html.page import facts, page, panels, row, section, table
from rlalign.html.svg import Panel, Series, axis_range
from rlalign.log.metrics import REWARD_BY_ENVIRONMENT, REWARD_STATISTICS
from rlalign.run import Run
from rlalign.storage.atomic import read_json, write_atomic
from rlalign.storage.checkpoint import versions
from rlalign.typecheck import flatten

_MAX_SAMPLES = 8  # prompts whose completions are shown
_NUMERIC = {1, 2, 3, 4}  # columns of the tables of changes
_TITLES = {
    "rollout/kl": "KL to the reference policy, nats",
    "rollout/length": "tokens",
    "rollout/entropy": "entropy, nats per token",
    "preference/accuracy": "accuracy on the step’s pairs",
    "preference/margin": "margin of the implicit reward",
    "held_out/accuracy": "accuracy on held-out preferences",
    "held_out/nll": "negative log-likelihood of held-out completions, nats per token",
}


def write_run_report(run: Run) -> Path:
    """Write report/report.html of a run folder and return its path.

    Raises:
        UserError: if no step of the run is finished.
    """
    if not run.metrics:
        raise UserError(f"'{run.folder}': expected at least one finished step, got none; train the run first")
    return write_atomic(run.folder / "report" / "report.html", render(run))


def render(run: Run) -> str:
    """Return the report as one HTML document."""
    config = run.config
    evaluation = _evaluation(run.folder)
    title = f"{config.algorithm} on {config.env}"
    done = len(run.metrics["step"])
    size = f"policy {config.policy} · seed {config.seed} · {done} of {config.steps} steps · {run.folder.name}"
    unfinished = "The run is not finished: no evaluation on held-out prompts after training."
    header = tag(
        "header",
        tag("p", "One run", class_="kind"),
        tag("h1", title),
        tag("p", size, class_="facts"),
        tag(
            "div",
            tag("p", typeset(evaluation["verdict"]) if evaluation else unfinished),
            class_="verdict",
            id_="verdict",
        ),
    )
    return page(
        title,
        header,
        _alarms(run.folder),
        _before_after(evaluation) if evaluation else None,
        section(
            "Training",
            note("Each step, not smoothed. Bands are 95 % confidence intervals over the step’s samples."),
            panels(_training_curves(run.metrics)),
            id_="curves",
        ),
        _samples(evaluation["samples"]) if evaluation else None,
        _settings(config),
    )


def _evaluation(folder: Path) -> dict[str, Any] | None:
    """Return the content of report/evaluation.json, None if the run is not finished."""
    path = folder / "report" / "evaluation.json"
    if not path.is_file():
        return None
    evaluation: dict[str, Any] = read_json(path, f"use rlalign train --resume {folder} to evaluate again")
    return evaluation


def _alarms(folder: Path) -> Html | None:
    path = folder / "report" / "alarms.json"
    if not path.is_file():
        return None
    alarms = read_json(path, "remove it to write the report without alarms")
    rows = [row([name, _periods(alarm["held"]), alarm["says"]], set(), {2}) for name, alarm in alarms.items()]
    return section(
        "Alarms",
        note("Patterns that reward hacking is known to show, and the steps at which each was present. Not a proof."),
        table("alarms", ["alarm", "steps", "pattern, likely cause and next step"], rows, set()),
        id_="alarms",
    )


def _periods(held: list[list[int | None]]) -> str:
    """Return periods as text, such as `12 to 40, from 66 to the end`."""
    return ", ".join(f"{first} to {last}" if last else f"from {first} to the end" for first, last in held)


def _before_after(evaluation: Mapping[str, Any]) -> Html:
    columns = ["before", "after", "difference", "prompts"]
    rows = [
        _change(tag("b", name) if name == "reward" else name, metric) for name, metric in evaluation["metrics"].items()
    ]
    tables = [table("before and after", ["metric", *columns], rows, _NUMERIC)]
    parts = evaluation.get("environments")  # of a mixture
    if parts:
        rows = [_change(name, part["metrics"]["reward"]) for name, part in parts.items()]
        tables += [tag("h3", "Reward by environment")]
        tables += [table("reward by environment", ["environment", *columns], rows, _NUMERIC)]
    return section(
        "Before and after",
        note("Means over the same held-out prompts. Differences are paired by prompt, with 95 % CI (Student’s t)."),
        *tables,
        id_="finals",
    )


def _change(name: Html | str, metric: Mapping[str, Any]) -> Html:
    difference = metric["difference"]
    cells = [name, number(metric["before"]), number(metric["after"]), _difference(difference), difference["n"]]
    return row(cells, _NUMERIC)


def _difference(difference: Mapping[str, Any]) -> Html:
    estimate = Estimate(difference["mean"], difference["low"], difference["high"])
    return joined((number(estimate.value, sign=True), tag("span", interval(estimate, sign=True), class_="ci")))


def _training_curves(metrics: Mapping[str, Sequence[float | None]]) -> list[Html | None]:
    """Return drawings of the reward with the held-out reward, then of each component, KL, length and entropy."""
    components = [name for name in metrics if name.startswith("reward/") and name not in REWARD_STATISTICS]
    by_environment = {name: name.split("/")[1] for name in metrics if REWARD_BY_ENVIRONMENT.fullmatch(name)}
    titles = {name: name.removeprefix("reward/") for name in components} | _TITLES
    titles = {name: f"reward on {env}" for name, env in by_environment.items()} | titles
    return [_reward_curve(metrics), *(_points_curve(metrics, name, title) for name, title in titles.items())]


def _reward_curve(metrics: Mapping[str, Sequence[float | None]]) -> Html | None:
    rewards = _finite(metrics.get("reward/mean", []))
    half_widths = metrics.get("reward/ci95", [])
    held_out = metrics.get("eval/reward") or []
    if all(value is None for value in rewards):  # a run on recorded data
        return _points_curve(metrics, "eval/reward", "held-out reward")
    steps = _steps(metrics)
    intervals = list(zip(rewards, half_widths, strict=False))
    low = [None if value is None or half is None else value - half for value, half in intervals]
    high = [None if value is None or half is None else value + half for value, half in intervals]
    no_band = [None] * len(steps)
    training = Series("reward", 0, steps, rewards, low or no_band, high or no_band)
    panel = _step_panel("reward", steps, [*rewards, *low, *high, *held_out], right=78 if held_out else 14)
    panel.band(training)
    panel.line(steps, rewards, 0)
    panel.hover = [training]
    if held_out:
        # most steps have no evaluation: the line connects those that have one
        points = [(step, value) for step, value in zip(steps, held_out, strict=False) if value is not None]
        evaluated = [step for step, _ in points]
        values = [value for _, value in points]
        panel.line(evaluated, values, 1)
        if points:
            panel.labels([("training", 0, steps[-1], _last(rewards)), ("held-out", 1, evaluated[-1], values[-1])])
        no_band = [None] * len(points)
        panel.hover = [training, Series("held-out", 1, evaluated, values, no_band, no_band)]
    return panel.svg()


def _points_curve(metrics: Mapping[str, Sequence[float | None]], name: str, title: str) -> Html | None:
    """Return the drawing of a metric that only some steps have, connected."""
    steps = [step for step, value in zip(_steps(metrics), metrics.get(name, []), strict=False) if value is not None]
    values = [value for value in metrics.get(name, []) if value is not None]
    return _metric_curve({"step": steps, name: values}, name, title)


def _metric_curve(metrics: Mapping[str, Sequence[float | None]], name: str, title: str) -> Html | None:
    values = _finite(metrics.get(name, []))
    if all(value is None for value in values):
        return None
    steps = _steps(metrics)
    no_band = [None] * len(steps)
    panel = _step_panel(title, steps, values)
    panel.line(steps, values, 0)
    panel.hover = [Series(title, 0, steps, values, no_band, no_band)]
    return panel.svg()


def _step_panel(title: str, steps: Sequence[float], values: Sequence[float | None], right: float = 14) -> Panel:
    x = axis_range(steps, zero=True, margin=0.0)
    panel = Panel(x=x, y=axis_range(values), x_label="step", title=title, right=right)
    panel.grid()
    return panel


def _steps(metrics: Mapping[str, Sequence[float | None]]) -> list[float]:
    return [float(step) for step in metrics["step"] if step is not None]


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else value for value in values]


def _last(values: Sequence[float | None]) -> float:
    return next(value for value in reversed(values) if value is not None)


def _samples(samples: Sequence[Mapping[str, Any]]) -> Html:
    blocks = []
    for sample in samples[:_MAX_SAMPLES]:
        prompt = titled_text(tag("h4", "prompt"), prompt_text(sample))
        before = titled_text(tag("h4", "before"), sample_texts(sample, "before")[0])
        after = titled_text(tag("h4", "after", class_="name"), sample_texts(sample, "after")[0])
        blocks.append(tag("div", prompt, tag("div", before, after, class_="texts"), class_="sample"))
    return section("Completions before and after", note("The first held-out prompts."), *blocks, id_="samples")


def _settings(config: TrainConfig) -> Html:
    """Return the settings that differ from the defaults of this environment, policy and algorithm."""
    defaults = flatten(to_dict(default_config(config.env, config.policy, config.algorithm)))
    settings = flatten(to_dict(config))
    # these do not change the result of a run
    ignored = ("output", "resume", "allow_change")
    changed = {k: v for k, v in settings.items() if defaults.get(k) != v and k not in ignored}
    rows = [row([tag("code", k), str(v), str(defaults.get(k))], set()) for k, v in sorted(changed.items())]
    return section(
        "Manifest",
        facts({"folder": config.output or "", "versions": " · ".join(f"{k} {v}" for k, v in versions().items())}),
        tag("h3", "Settings that differ from the defaults"),
        table("settings", ["setting", "this run", "default"], rows, set()) if rows else note("None."),
        id_="manifest",
    )

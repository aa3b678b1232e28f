"""The card of a run: a page in Markdown with metadata, from the run's facts.

Texts of the user, of data and of models are code spans or escaped prose: none of them is markup. Completions and
prompts are not on the card, since their license may forbid it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.escaping.markdown import block, code, plain, with_code
from rlalign.evaluation.signed_bounds import decimals_of, signed_bounds
from rlalign.log.alarms import ALARMS
from rlalign.publish.changed_objective import changed_objective, formula_of_run
from rlalign.publish.command import command_of, has_objects
from rlalign.publish.environments import by_environment, not_reached
from rlalign.publish.facts import Facts, shareable_facts
from rlalign.publish.former_runs import continued, former_commands
from rlalign.publish.loading import TITLE, policy_loading
from rlalign.publish.metadata import env_name, metadata_of


def card_of(facts: Facts, name: str) -> str:
    """Return the card of a run as Markdown with YAML metadata.

    Args:
        facts: of the run.
        name: of the model, such as the name of its repository.
    """
    from huggingface_hub import ModelCard

    command = command_of(facts.config, folders=False)
    never = not_reached(facts.config.env, facts.steps)
    facts = shareable_facts(facts)
    parts = [
        f"# {plain(name)}",
        _summary(facts, never),
        *_section("Before and after", _results(facts)),
        *_section("Environment and rewards", _environment(facts)),
        *_section("Algorithm", _algorithm(facts)),
        *_section("Continued learning", continued(facts.config, facts.former)),
        *_section("Data and licenses", _licenses(facts)),
        *_section("Alarms", _alarms(facts)),
        *_section("Limits", _limits(facts)),
        *_section("Reproduction", _reproduction(facts, command)),
        TITLE,  # last, so that an export replaces it
        *policy_loading(facts.kind, facts.adapter, facts.adapter_base),
    ]
    header = f"---\n{metadata_of(facts, name).to_yaml()}\n---"
    text = header + "\n\n" + "\n\n".join(parts) + "\n"
    ModelCard(text)  # raises ValueError for metadata that cannot be read back
    return text


def _summary(facts: Facts, not_reached: str) -> str:
    config = facts.config
    former = facts.former.runs
    policy = f"The policy of {code(former[0].name)}" if former else code(config.policy.rstrip("/").rpartition("/")[2])
    return (
        f"{policy} trained with {code(config.algorithm)} on {code(env_name(config))} "
        f"by [rlalign](https://pypi.org/project/rlalign/) for {facts.steps} steps, seed {config.seed}."
        f"{not_reached}\n\n"
        f"**{plain(str(facts.evaluation.get('verdict', '')))}**"
    )


def _results(facts: Facts) -> list[str]:
    rows = [_row(name, entry) for name, entry in facts.evaluation["metrics"].items()]
    split = "test" if facts.config.evaluation.patience else facts.config.evaluation.split
    lines = [
        f"Means over the same held-out prompts of the split {code(split)}, {facts.config.evaluation.samples} completion"
        f"{'s' if facts.config.evaluation.samples > 1 else ''} each, and the paired difference with its 95 % interval "
        "over prompts. `kl` is to the initial policy, in nats per completion.",
        _table(("metric", "before", "after", "difference", "95 % interval", "prompts"), rows),
    ]
    parts = by_environment(facts.evaluation)
    if parts:
        columns = ("reward on", "before", "after", "difference", "95 % interval", "prompts")
        lines.append(_table(columns, [_row(name, entry) for name, entry in parts.items()]))
    figures = facts.evaluation.get("corpus", {})
    before, after = (figures.get(side, {}).get("figures", {}) for side in ("before", "after"))
    if after:
        lines.append(
            _table(
                ("over all completions", "before", "after"),
                [
                    [code(key, in_table=True), _number(before.get(key), 3), _number(value, 3)]
                    for key, value in after.items()
                ],
            )
        )
    if facts.held_out.get("metrics"):
        held = facts.held_out["metrics"].items()
        lines.append(
            _table(
                ("on held-out recorded data", "before", "after"),
                [
                    [code(key, in_table=True), _number(entry["before"], 3), _number(entry["after"], 3)]
                    for key, entry in held
                ],
            )
        )
    return lines


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of a measure: means before and after, and the paired difference with its interval."""
    d = entry["difference"]
    low, high = _float(d["low"]), _float(d["high"])
    digits = decimals_of(low, high)
    interval = signed_bounds(low, high) if math.isfinite(low) and low < high else "-"
    numbers = [_number(entry["before"], digits), _number(entry["after"], digits), _number(d["mean"], digits, "+")]
    return [code(name, in_table=True), *numbers, interval, str(d["n"])]


def _environment(facts: Facts) -> list[str]:
    config = facts.config
    lines = [f"Environment: {code(config.env)}."]
    if config.data:
        lines.append(f"Recorded data: {code(config.data)}.")
    if config.teacher:
        lines.append(f"Teacher: {code(config.teacher)}.")
    if facts.weights:
        rows = [[code(name, in_table=True), f"{weight:g}"] for name, weight in facts.weights.items()]
        lines.append(_table(("reward component", "weight"), rows))
        lines.append("A component of weight 0 is measured and not trained on.")
    elif config.rewards:
        lines.append("Rewards: " + ", ".join(code(spec) for spec in config.rewards) + ".")
    return lines


def _algorithm(facts: Facts) -> list[str]:
    config = facts.config
    built_in = ":" not in config.algorithm or config.algorithm.startswith("trl:")
    preset = find_algorithm(config.algorithm) if built_in else None
    lines = []
    if preset is not None:
        source = f" ({preset.paper}{', arXiv ' + preset.arxiv if preset.arxiv else ''})" if preset.paper else ""
        lines.append(f"{code(preset.name)}{plain(source)}: {plain(preset.description)}")
        if preset.bias:
            kind, colon, rest = preset.bias.partition(": ")
            statement = (
                f"is {kind.lower()}: {rest}" if colon and kind.isalpha() else f"against its objective. {preset.bias}"
            )
            lines.append(f"The expected gradient or optimum of the preset {with_code(statement)}")
        lines += changed_objective(config, preset)
    lines.append(block("\n".join(formula_of_run(config))))
    lines += [plain(sentence) for sentence in (facts.trained.sentence, facts.trained.start) if sentence]
    if facts.advantage.get("sentence"):
        lines.append(f"Custom {plain(str(facts.advantage['sentence']))}.")
    r, ln = config.rollout, config.learner
    updates = f"{ln.epochs * ln.minibatches} updates ({ln.epochs} epochs × {ln.minibatches} minibatches)"
    updates = "1 update" if ln.epochs * ln.minibatches == 1 else updates
    lines.append(
        f"{r.prompts} prompts × {r.group_size} samples per step, temperature {r.temperature:g}, {updates} per rollout, "
        f"AdamW with learning rate {ln.lr:g} ({ln.lr_schedule})."
    )
    return lines


def _licenses(facts: Facts) -> list[str]:
    base = facts.base
    lines = [f"Initial policy: {plain(base.text)}."]
    if base.license:
        lines.append(f"License of the initial policy: {code(base.license)}. The trained weights derive from it.")
    elif facts.former.runs and not base.trained:
        lines.append("The former runs began with random weights, which have no license.")
    elif base.trained:
        lines.append("License of the initial policy: not known to the program that wrote this card. Add it to publish.")
    notes = [(code(name), note) for name, note in facts.data.items()]
    for run in facts.former.runs:
        notes += [(f"{code(name)}, of the former run {code(run.name)}", note) for name, note in run.data.items()]
    unknown = "not known to the program that wrote this card. Add it to publish."
    for name, note in notes:
        lines.append(f"Data of {name}: {with_code(note)}" if note else f"License of the data of {name}: {unknown}")
    lines += [
        f"License of the data of the former run {code(run.name)}: {unknown}"
        for run in facts.former.runs
        if not run.data
    ]
    return lines


def _alarms(facts: Facts) -> list[str]:
    if not facts.alarms:
        return ["No alarm was raised. rlalign monitors patterns of reward hacking."]
    lines = ["Raised during training:"]
    for name, entry in facts.alarms.items():
        periods = [f"{first} to {'the end' if last is None else last}" for first, last in entry.get("held", [])]
        message = ALARMS[name].message if name in ALARMS else str(entry.get("says", ""))
        lines.append(f"- {code(name)}, steps {plain(', '.join(periods))}: {plain(message)}")
    return ["\n".join(lines)]


def _limits(facts: Facts) -> list[str]:
    config = facts.config
    prompts = len(next(iter(facts.evaluation.get("prompts", {}).get("after", {}).values()), []))
    trained = [name for name, weight in facts.weights.items() if weight]
    lines = [
        f"- One run with seed {config.seed}: the intervals are over prompts, not over seeds. Another seed gives "
        "another policy.",
        f"- {prompts} held-out prompts of the environment above; other prompts were not measured.",
        "- The reward is a proxy: a higher one does not mean that a person prefers the completions."
        + (f" Trained on: {', '.join(map(code, trained))}." if trained else ""),
    ]
    if config.evaluation.split == "validation" and not config.evaluation.patience:
        lines.append(
            "- The prompts are of the split `validation`, which settings may have been chosen on; "
            "`rlalign evaluate` measures on the split `test`."
        )
    return ["\n".join(lines)]


def _reproduction(facts: Facts, command: str) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    commands, unknown = former_commands(facts.former)
    lines = [block("\n".join([*commands, command]), "bash")]
    if unknown:
        lines.append(f"The command of {', '.join(map(code, unknown))} is not known: the folder was moved or changed.")
    if has_objects(facts.config):
        lines.append("Parts of this run (`object:...`) were passed as Python objects, which no command line names.")
    lines.append(
        f"Files are named without their folders, addresses without passwords and keys. Versions: {plain(versions)}."
    )
    return lines


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"## {title}", *parts] if parts else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: Any, digits: int, sign: str = "") -> str:
    number = _float(value)
    return f"{round(number, digits) + 0.0:{sign}.{digits}f}" if math.isfinite(number) else "-"


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)

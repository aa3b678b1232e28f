"""Recorded data in a run: what is read for it, how it is measured on held-out rows, and the lines about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.evaluation.before_after import paired_difference
from rlalign.evaluation.evaluate import held_out
from rlalign.policies.base import Policy
from rlalign.recorded.columns import Kind
from rlalign.recorded.held_out import held_out_metrics, held_out_values
from rlalign.recorded.importance import with_importance_weights
from rlalign.recorded.items import check_kind
from rlalign.recorded.prompts import RecordedPrompts
from rlalign.recorded.read import RecordedData, read_recorded
from rlalign.rollout.recorded import Group
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.storage.run_folder import read_config
from rlalign.types import FloatArray

_LEADING: Mapping[Kind, tuple[str, str]] = {
    "demonstrations": ("nll", "nats per token"),
    "labels": ("accuracy", "share of labels"),
    "pairs": ("accuracy", "share of pairs"),
}
"""Kind -> the metric that the last line of a run names, and its unit. Logged rewards have none: the likelihood of
recorded completions need not rise."""


def wanted_kind(config: TrainConfig) -> Kind:
    """Return the kind of data that the algorithm of a run learns from."""
    return find_algorithm(config.algorithm).data or "rewards"


def check_columns(config: TrainConfig) -> None:
    """Check that a run has the recorded data that its algorithm learns from, before its environment is built.

    Raises:
        UserError: the algorithm needs data and there is none, or it learns from no data, or from another kind.
    """
    preset = find_algorithm(config.algorithm)
    if config.data and preset.teacher:
        raise UserError(
            f"{config.algorithm} learns from samples and a teacher, and not from recorded data; leave out --data"
        )
    if config.data:
        check_kind(config.data, wanted_kind(config), config.algorithm, config.recorded)
    elif preset.data:
        raise UserError(
            f"{config.algorithm} learns from recorded data: expected a file, got none; use --data FILE (in Python "
            "data=...; see docs/concepts/recorded_data.md)"
        )


def check_data(config: TrainConfig, mdp: TextMDP) -> None:
    """Check the settings of a run on recorded data before any weight is loaded.

    Args:
        config: of the run.
        mdp: its environment.

    Raises:
        UserError: a setting cannot be used with recorded data.
    """
    if not config.data:
        return
    wanted = find_algorithm(config.algorithm).data
    objective = config.objective
    if wanted == "demonstrations" and objective.needs_varied_rewards:
        raise UserError(
            f"{config.algorithm}: every demonstration has the reward 1, of which a baseline or a scale leaves no "
            f"advantage, got baseline {objective.baseline} with scale {objective.scale}; use --objective.baseline none "
            "and --objective.scale none"
        )
    if objective.needs_reference_point and config.rollout.prompts < 2:
        raise UserError(
            f"{config.algorithm} compares each completion with those of other prompts of the step: expected "
            f"rollout.prompts of 2 or more, got {config.rollout.prompts}; use --rollout.prompts 2"
        )
    for used, what, fix in (
        (objective.needs_greedy, "baseline greedy samples a completion", "use another --objective.baseline"),
        (objective.filter.dynamic_sampling, "filter.dynamic_sampling samples again", "turn it off"),
        (config.rollout.per_component, "rollout.per_component reads reward components", "turn it off"),
        (objective.kl.importance != "none" and objective.ratio == "none",
         "objective.kl.importance is the ratio to the recorded policy, which ratio none does not have", "use none"),
        (objective.kl.target > 0, "objective.kl.target adapts to the KL of samples", "use 0"),
        (config.supervised.align_interval, "supervised updates read answers of the environment", "use algorithm sft"),
        (config.evaluation.stop_kl and not config.evaluation.every, "evaluation.stop_kl reads the KL of samples",
         "use --evaluation.every 1"),
    ):  # fmt: skip
        if used:
            raise UserError(f"--data: {what}, and recorded data is not sampled; {fix}")
    if config.evaluation.patience and not mdp.has_reward and not wanted:
        raise UserError(
            f"evaluation.patience: expected an environment with a reward, got {mdp.id} without one, and the likelihood "
            "of completions with logged rewards need not rise; use --evaluation.patience 0, --env or --reward"
        )


def load_data(
    config: TrainConfig, policy: Policy, mdp: TextMDP, console: PlainConsole
) -> tuple[TrainConfig, RecordedData | None]:
    """Return the recorded data of a run as token ids, and the configuration with the importance weights of the data.

    Raises:
        UserError: the data cannot be used.
    """
    if not config.data:
        return config, None
    data = read_recorded(
        config.data,
        wanted_kind(config),
        mdp,
        algorithm=config.algorithm,
        settings=config.recorded,
        positions=policy.max_positions,
        drop=config.on_bad_record == "drop",
    )
    if config.evaluation.patience and not mdp.has_reward and not data.held_out:
        raise UserError(
            "evaluation.patience: expected held-out rows or an environment with a reward, got neither; use "
            "--evaluation.patience 0, or --recorded.held-out 0.1"
        )
    if config.evaluation.patience and not mdp.has_reward and data.test is data.validation:
        console.warn(
            "the held-out prompts are too few for two halves, so that the rows by which early stopping selects the "
            "weights also report them; hold more out (--recorded.held-out)"
        )
    if config.objective.needs_reference_point and len(data.train) < 2:
        raise UserError(
            f"'{config.data}': {config.algorithm} compares each completion with those of other rows: expected two "
            f"rows or more, got {len(data.train)}; add some"
        )
    notes = list(data.notes)
    if data.kind == "rewards":
        config, note = with_importance_weights(config, data)
        notes.append(note)
        single = sum(len(group) < 2 for group in data.train) if config.objective.needs_group else 0
        if single == len(data.train):
            raise UserError(
                f"'{config.data}': baseline {config.objective.baseline} compares the completions of a prompt, and no "
                "prompt of the data has two; use --algorithm reinforce, or more completions per prompt"
            )
        if single:
            notes.append(
                f"{single} of {len(data.train)} prompts have one completion, which baseline "
                f"{config.objective.baseline} compares with no other: their advantage is 0"
            )
    for note in notes:
        console.print(note, soft_wrap=True)
    _warn_of_shared_prompts(config, mdp, data, console)
    return config, data


def _warn_of_shared_prompts(config: TrainConfig, mdp: TextMDP, data: RecordedData, console: PlainConsole) -> None:
    known = {tuple(row.ids[: row.prompt_length]) for group in data.train for row in group}
    tasks = held_out(mdp, config.evaluation.split, config.evaluation.prompts)
    shared = sum(tuple(mdp.prompt_ids(task)) in known for task in tasks)
    if shared:
        console.warn(
            f"{shared} of the {len(tasks)} held-out prompts are also prompts of the data, so that the evaluation is "
            "not of new prompts; use another --evaluation.split, or other data"
        )


def warn_of_prompts_of_parent(config: TrainConfig, mdp: TextMDP, console: PlainConsole) -> None:
    """Warn if held-out prompts are among those that an earlier run trained the initial policy on, from its data."""
    folder = Path(config.policy).expanduser()
    if folder.name != "policy" or not (folder.parent / "config.json").is_file():
        return
    parent = read_config(folder.parent)
    if not parent.data:
        return
    try:
        trained = RecordedPrompts(parent.data, parent.recorded.held_out).source
    except UserError:  # the data is gone
        return
    known = {repr(trained.get("train", index).prompt) for index in range(trained.size("train") or 0)}
    tasks = held_out(mdp, config.evaluation.split, config.evaluation.prompts)
    shared = sum(repr(task.prompt) in known for task in tasks)
    if shared:
        console.warn(
            f"{shared} of the {len(tasks)} held-out prompts are prompts of '{parent.data}', from which the policy "
            f"'{folder.parent}' has learned, so that the evaluation is not of new prompts; use the environment of the "
            "data (docs/concepts/recorded_data.md), or other prompts"
        )


class HeldOutData:
    """Measures a run on the held-out rows of its data: before, at each validation, and after.

    With early stopping the validations read other rows than the measures before and after, so that the rows that select
    the weights do not report them.

    Args:
        config: of the run.
        policy: in training.
        data: of the run.
    """

    def __init__(self, config: TrainConfig, policy: Policy, data: RecordedData) -> None:
        self.config = config
        self.policy = policy
        self.data = data

    def values(self) -> dict[str, FloatArray]:
        """Return metric -> one value per held-out group; empty without held-out data."""
        return self._measure(self.data.test if self.config.evaluation.patience else self.data.held_out)

    def metrics(self) -> dict[str, float]:
        """Return held_out/NAME -> mean, at a validation."""
        groups = self.data.validation if self.config.evaluation.patience else self.data.held_out
        return held_out_metrics(self._measure(groups))

    def _measure(self, groups: Sequence[Group]) -> dict[str, FloatArray]:
        return held_out_values(self.policy, groups, self.data.kind, self.config.objective) if groups else {}

    @property
    def criterion(self) -> str:
        """The metric that early stopping minimizes: the loss of preferences, or the nll of demonstrations."""
        return "held_out/loss" if self.data.kind in ("pairs", "labels") else "held_out/nll"

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the number that early stopping maximizes, minus `criterion`."""
        return -metrics[self.criterion]


def write_held_out(folder: Path, kind: Kind, before: Mapping[str, FloatArray], after: Mapping[str, FloatArray]) -> None:
    """Write report/held_out.json: the change on held-out data, and a sentence about its leading metric.

    Args:
        folder: of the run.
        kind: of the data.
        before, after: of `HeldOutData.values`.
    """
    differences = {name: paired_difference(before[name][:, None], after[name][:, None]) for name in before}
    content: dict[str, dict[str, Any]] = {
        name: {
            "before": float(np.nanmean(before[name])),
            "after": float(np.nanmean(after[name])),
            "difference": asdict(difference),
        }
        for name, difference in differences.items()
    }
    verdict = ""
    if kind in _LEADING:
        name, unit = _LEADING[kind]
        d = differences[name]
        change = d.change(content[name]["before"], content[name]["after"])
        verdict = f"held-out data: {name} {change} ({unit}; {d.evidence}, {d.n} groups)"
    report = folder / "report"
    report.mkdir(exist_ok=True)
    results = {"kind": kind, "verdict": verdict, "metrics": content}
    write_atomic(report / "held_out.json", json.dumps(nullable(results), indent=1))

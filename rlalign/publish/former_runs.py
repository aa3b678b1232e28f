"""The former runs of a continued run, for its card: parents, reference policies, replay, EWC."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.continual.chain import Link, followed, stored_chain
from rlalign.continual.previous_reference import reference_run
from rlalign.errors import UserError
from rlalign.escaping.markdown import code, plain
from rlalign.escaping.shareable import shareable_spec, shareable_values
from rlalign.publish.command import command_of
from rlalign.publish.data_licenses import data_notes
from rlalign.storage.run_folder import read_config


@dataclass(frozen=True)
class FormerRun:
    """A former run.

    Attributes:
        name: of its folder.
        digest: sha256 of its policy; empty: not recorded.
        env: its environment; empty: the run is not found, or its configuration has changed.
        policy: its initial policy; empty like `env`.
        data: environment or recorded data -> note about data and license (see `data_notes`).
        command: that repeats the run, for other machines; empty like `env`.
    """

    name: str
    digest: str
    env: str = ""
    policy: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class FormerRuns:
    """The chain of a continued run.

    Attributes:
        runs: the parent first; empty: the run continues none.
        reference: the run whose initial policy is the former reference policy; None: not read, or not found.
    """

    runs: tuple[FormerRun, ...] = ()
    reference: FormerRun | None = None

    @property
    def origin(self) -> str:
        """The policy that the first run of the chain began with; empty: not known."""
        return self.runs[-1].policy if self.runs else ""


def former_runs(folder: Path, config: TrainConfig) -> FormerRuns:
    """Return the former runs of a run folder, from their files.

    Args:
        folder: of the run.
        config: its configuration.
    """
    links = followed(stored_chain(folder), folder)
    runs = tuple(map(_former_run, links))
    reference = None
    if links and config.continual.anchor != "new":
        try:
            place = reference_run(links)[0]
            reference = next(run for link, run in zip(links, runs, strict=True) if link.path == place)
        except UserError:  # a former run was moved or edited since
            reference = None
    return FormerRuns(runs, reference)


def _former_run(link: Link) -> FormerRun:
    run = FormerRun(link.ancestor.name, link.ancestor.policy)
    if link.path is None or link.config_changed:
        return run
    config = read_config(link.path)
    command = f"{command_of(config, folders=False)} --output {shlex.quote(run.name)}"
    return replace(
        run, env=config.env.removeprefix(OBJECT), policy=config.policy, data=data_notes(config), command=command
    )


def former_commands(former: FormerRuns) -> tuple[list[str], list[str]]:
    """Return the commands that repeat the former runs, the oldest first, and the names of runs without a known one.

    Args:
        former: of the run.
    """
    commands = [run.command for run in reversed(former.runs) if run.command]
    return commands, [run.name for run in former.runs if not run.command]


def shareable_runs(former: FormerRuns) -> FormerRuns:
    """Return former runs as others may read them: without folders of this machine."""

    def shared(run: FormerRun) -> FormerRun:
        env, policy = shareable_spec(run.env), shareable_spec(run.policy)
        return replace(run, env=env, policy=policy, data=shareable_values(run.data))

    reference = None if former.reference is None else shared(former.reference)
    return FormerRuns(tuple(map(shared, former.runs)), reference)


def continued(config: TrainConfig, former: FormerRuns) -> list[str]:
    """Return the paragraphs of the card about continued learning; [] for a run that continues none.

    Args:
        config: of the run, as others may read it.
        former: as others may read them.
    """
    if not former.runs:
        return []
    parent = former.runs[0]
    lines = [
        "\n".join(["The initial policy is the result of former runs, the newest first:", *map(_entry, former.runs)]),
    ]
    if any(run.digest for run in former.runs):
        lines.append(
            "The sha256 of a policy is that of one line `PATH SHA256` for each file of `policy/` with the ending "
            ".json, .jinja, .model, .py, .safetensors or .txt, in the order of their paths."
        )
    settings = config.continual
    kept = settings.optimizer == "kept"
    lines.append("AdamW began with the moments of the former run." if kept else "The state of the optimizer was fresh.")
    if config.objective.needs_reference and not _has_teacher(config):
        lines.append(_references(config, former))
    of_former = f"the environment of {code(parent.name)}" + (f", {code(parent.env)}" if parent.env else "")
    if settings.replay:
        share = f"a share of {settings.replay:g} of the prompts, over the steps within one prompt, comes"
        if settings.replay_schedule == "linear":
            share = f"a share of the prompts, {settings.replay:g} in the first step and falling to 0 in the last, comes"
        lines.append(f"Replay: {share} from {of_former}, with its rewards.")
    if settings.ewc:
        lines.append(
            f"Elastic weight consolidation with the coefficient {settings.ewc:g}: the penalty {settings.ewc:g}/2 · Σ F "
            "(theta - theta\\_start)² holds the weights near the initial ones. F is the diagonal Fisher information of "
            f"{of_former}, from {settings.ewc_samples} completions."
        )
    return lines


def _has_teacher(config: TrainConfig) -> bool:
    """Return whether the reference policy of a run is the teacher of its algorithm."""
    built_in = ":" not in config.algorithm
    return built_in and bool(find_algorithm(config.algorithm).teacher)


def _entry(run: FormerRun) -> str:
    trained = f"trained on {code(run.env)}" if run.env else "whose folder is not there any more, or was changed since"
    began = f", from {code(run.policy)}" if run.policy else ""
    digest = f"sha256 of the policy {plain(run.digest[:12])}..." if run.digest else "recorded without a digest"
    return f"- {code(run.name)}, {trained}{began} ({digest})"


def _references(config: TrainConfig, former: FormerRuns) -> str:
    """Return the reference policies of the KL in a sentence."""
    new = f"the initial policy of this run, the result of {code(former.runs[0].name)}"
    if config.continual.anchor == "new":
        return f"The reference policy of the KL is {new}."
    run = former.reference
    old = "the reference policy of the former run"
    if run is not None:
        old += f", the initial policy of {code(run.name)}, {code(run.policy)}"
    if config.continual.anchor == "previous":
        return f"The reference policy of the KL is {old}."
    return f"The KL is the mean of the KLs to two reference policies: {new}; and {old}."

"""The matrix tasks × stages of a chain of runs: the reward of each policy on the held-out prompts of each task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.checks.data_pass import checked_mdp
from rlalign.config.instantiate import bind, build_mdp
from rlalign.config.schema import TrainConfig
from rlalign.config.size_limits import check_evaluation
from rlalign.continual.chain import followed, stored_chain
from rlalign.continual.previous_reference import initial_policy
from rlalign.continual.transfer import backward_transfer, forgetting
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.spec import env_specs
from rlalign.envs.spec import env_id
from rlalign.errors import RecordError, UserError
from rlalign.evaluation.evaluate import evaluate, held_out, held_out_sizes, prompt_means
from rlalign.evaluation.mean_interval import MeanInterval, mean_interval
from rlalign.policies.base import Policy
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import load
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.storage.run_folder import read_config
from rlalign.storage.trust import check_trust
from rlalign.teachers.vocabulary import have_same_tokens
from rlalign.types import FloatArray, Task, Tokenizer

START = "start"
"""Name of the first stage, the untrained initial policy of the oldest run."""


@dataclass(frozen=True)
class Stage:
    """A policy of the chain.

    Attributes:
        name: `start`, or the name of the run's folder.
        folder: of the run; None for the start.
        config: of the run; of the oldest run for the start.
    """

    name: str
    folder: Path | None
    config: TrainConfig


@dataclass(frozen=True)
class TransferMatrix:
    """Rewards of S stages on K tasks.

    Attributes:
        tasks: K environment specs.
        stages: S names, the start first.
        folders: of the stages; an empty text for the start.
        rewards: K arrays float [S, P_k], the mean reward of each stage on each held-out prompt; NaN: not scored.
        learned: K indices of the stage that first trained on the task; None: no stage did.
        split: of the prompts.
        notes: what is not as the chain records it.
    """

    tasks: tuple[str, ...]
    stages: tuple[str, ...]
    folders: tuple[str, ...]
    rewards: tuple[FloatArray, ...]
    learned: tuple[int | None, ...]
    split: str
    notes: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> list[list[MeanInterval]]:
        """K rows of S mean rewards with their 95 % t-intervals over prompts."""
        return [[mean_interval(of_stage) for of_stage in of_task] for of_task in self.rewards]

    @cached_property
    def forgetting(self) -> list[MeanInterval]:
        """Forgetting of each task (see `rlalign.continual.transfer.forgetting`)."""
        return [forgetting(of_task) for of_task in self.rewards]

    @cached_property
    def backward_transfer(self) -> list[MeanInterval]:
        """Backward transfer of each task (see `rlalign.continual.transfer.backward_transfer`)."""
        pairs = zip(self.rewards, self.learned, strict=True)
        return [backward_transfer(of_task, learned) for of_task, learned in pairs]

    @property
    def averages(self) -> dict[str, float]:
        """Mean forgetting and mean backward transfer of the tasks learned before the last stage; NaN without any."""
        last = len(self.stages) - 1
        former = [i for i, learned in enumerate(self.learned) if learned is not None and learned < last]

        def mean(intervals: Sequence[MeanInterval]) -> float:
            return float(np.mean([intervals[i].mean for i in former])) if former else math.nan

        return {"forgetting": mean(self.forgetting), "backward_transfer": mean(self.backward_transfer)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: stages, and per task its cells, forgetting, backward transfer and prompt means."""
        rows = []
        for i, task in enumerate(self.tasks):
            rows.append(
                {
                    "env": task,
                    "learned": None if self.learned[i] is None else self.stages[self.learned[i] or 0],
                    "cells": {stage: asdict(cell) for stage, cell in zip(self.stages, self.cells[i], strict=True)},
                    "forgetting": asdict(self.forgetting[i]),
                    "backward_transfer": asdict(self.backward_transfer[i]),
                    "prompts": {
                        stage: of_stage.tolist() for stage, of_stage in zip(self.stages, self.rewards[i], strict=True)
                    },
                }
            )
        stages = [{"name": name, "folder": folder} for name, folder in zip(self.stages, self.folders, strict=True)]
        return {
            "split": self.split,
            "stages": stages,
            "tasks": rows,
            "averages": self.averages,
            "notes": list(self.notes),
        }


def transfer_matrix(
    folder: Path,
    config: TrainConfig,
    envs: Sequence[str],
    *,
    split: str = "test",
    prompts: int | None = None,
    samples: int | None = None,
    trust: bool = False,
) -> TransferMatrix:
    """Evaluate each policy of a run's chain on held-out prompts of each task, and write report/transfer-SPLIT.json.

    All policies get the same prompts, and the sampling distribution and the seed of the run. A task that a run of the
    chain trained on has that run's rewards and limits; another one has its own rewards. A stage is the policy in
    `policy/` of its run.

    Args:
        folder: the last run.
        config: its configuration.
        envs: K environments by name, all different.
        split: train, validation or test.
        prompts: held-out prompts per task, at least 2; None: as in the configuration.
        samples: completions per prompt; None: as in the configuration.
        trust: run the code that the configurations of the chain name although somebody else wrote the folders.

    Raises:
        UserError: a run of the chain is missing or unfinished, a name is unknown, a number is out of range, or a task
            needs another tokenizer than the policies have.
    """
    prompts, samples = held_out_sizes(config, split, prompts, samples)
    if len(set(envs)) != len(envs) or not envs:
        raise UserError(f"env: expected different environments, got {', '.join(envs) or 'none'}; name each once")
    stages, notes = stages_of(folder, config)
    for stage in stages[1:]:
        check_trust(stage.folder or folder, stage.config, trust=trust)
    learned = [_learned(env, stages) for env in envs]
    # unbound: each stage binds them to its own policy, which rewards may read
    unbound = [
        _task_mdp(env, config, None if at is None else stages[at].config) for env, at in zip(envs, learned, strict=True)
    ]
    means: list[list[FloatArray]] = [[] for _ in envs]
    with ExitStack() as stack:
        for mdp in unbound:
            stack.callback(mdp.reward.close)  # ends the workers of rewards
        tokenizer: Tokenizer | None = None
        for stage, policy in _policies(stages, unbound[0].tokenizer, config, trust=trust):
            if tokenizer is not None and not have_same_tokens(tokenizer, policy.tokenizer):
                raise UserError(
                    f"'{stage.folder}': expected the tokenizer of the stages before it, got another one; the rewards "
                    "of different tokenizers are not stages of one policy"
                )
            tokenizer = policy.tokenizer
            for row, mdp, at in zip(means, unbound, learned, strict=True):
                task_config = config if at is None else stages[at].config
                bound = bind(mdp, policy, task_config.rollout.chat_template)
                if task_config.on_bad_record == "drop":
                    bound = checked_mdp(task_config, bound, policy)
                check_evaluation(bound, split, prompts, samples)
                tasks = held_out(bound, split, prompts)  # type: ignore[arg-type]  # checked above
                _check_tokenizer(bound, tasks)
                result = evaluate(
                    policy,
                    bound,
                    tasks,
                    samples=samples,
                    sampling=config.rollout.sampling,
                    seed=config.seed,
                    sampler=config.rollout.sampler,
                )
                if not result.scored:
                    raise UserError(
                        f"{bound.id} has no reward, so there is nothing to compare; use an environment with one"
                    )
                row.append(prompt_means(result.metrics["reward"]))
    matrix = TransferMatrix(
        tuple(envs),
        tuple(stage.name for stage in stages),
        tuple("" if stage.folder is None else str(stage.folder) for stage in stages),
        tuple(np.stack(row) for row in means),
        tuple(learned),
        split,
        tuple(notes),
    )
    text = json.dumps(nullable(matrix.to_dict()), ensure_ascii=False, indent=1) + "\n"
    write_atomic(folder / "report" / f"transfer-{split}.json", text)
    return matrix


def stages_of(folder: Path, config: TrainConfig) -> tuple[list[Stage], list[str]]:
    """Return the stages of a run, the untrained start first, and what is not as its chain records it.

    Args:
        folder: the run folder.
        config: its configuration.

    Raises:
        UserError: a run of the chain is missing or has no policy.
    """
    links = followed(stored_chain(folder), folder)
    runs: list[tuple[Path, TrainConfig]] = []
    for link in reversed(links):
        if link.path is None:
            raise UserError(
                f"the chain of '{folder}': {link.problems[0]}; restore it at that path, or evaluate with one --env"
            )
        runs.append((link.path, read_config(link.path)))
    runs.append((folder, config))
    for path, _ in runs:
        if not (path / "policy").is_dir():
            raise UserError(f"'{path}' has no policy yet; finish it with rlalign train --resume {path}")
    names = _different_names([path for path, _ in runs])
    start = Stage(START, None, runs[0][1])
    stages = [start, *(Stage(name, path, of_run) for name, (path, of_run) in zip(names, runs, strict=True))]
    return stages, [problem for link in links for problem in link.problems]


def _different_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders; with the number of the stage if two are equal."""
    names = [folder.resolve().name for folder in folders]
    if len({START, *names}) == len(names) + 1:
        return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _learned(env: str, stages: Sequence[Stage]) -> int | None:
    """Return the index of the first stage that trained on an environment; None if none did."""
    for i, stage in enumerate(stages):
        if stage.folder is not None and any(env_id(env) == env_id(own) for own in env_specs(stage.config.env)):
            return i
    return None


def _task_mdp(env: str, config: TrainConfig, trained: TrainConfig | None) -> TextMDP:
    """Return the environment of a task with the rewards and limits of the run that trained on it, or its own."""
    return build_mdp(
        replaced(config, env=env, rewards=(), data=None) if trained is None else replaced(trained, env=env)
    )


def _policies(
    stages: Sequence[Stage], tokenizer: Tokenizer, config: TrainConfig, *, trust: bool
) -> Iterator[tuple[Stage, Policy]]:
    """Yield each stage with its policy, one after the other, so that only one is in memory."""
    device = resolve_device(config.device)
    for stage in stages:
        if stage.folder is None:
            own = _own_tokenizer(stages, tokenizer)
            yield stage, initial_policy(stage.config, own, device, trust=trust).policy
        else:
            yield stage, load(stage.folder / "policy", tokenizer=tokenizer, device=device)


def _own_tokenizer(stages: Sequence[Stage], tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer of the oldest run, which its policy from scratch was built with."""
    from rlalign.policies.saved import saved_tokenizer

    folder = stages[1].folder
    return (saved_tokenizer(folder / "policy") if folder is not None else None) or tokenizer


def _check_tokenizer(mdp: TextMDP, tasks: Sequence[Task]) -> None:
    """Raise UserError if the policy's tokenizer cannot encode the prompts or the reference answers of a task."""
    for task in tasks:
        try:
            mdp.prompt_ids(task)
            for turn in mdp.reference_turns(task) or ():
                mdp.tokenizer.encode(turn)
        except (RecordError, UserError) as error:
            raise UserError(
                f"{mdp.id}: expected texts that the policy's tokenizer can encode, got others ({error}); use "
                "environments with the tokenizer of the run"
            ) from error

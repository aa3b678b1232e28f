"""Evaluation of one policy on held-out prompts: sampled completions, their rewards and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.records.splits import SPLITS
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.evaluation.text_metrics import Report, attempts, distinct, families_of, report
from rlalign.policies.base import Policy, ReferenceScorer
from rlalign.policies.device import on_device
from rlalign.policies.factory import make_sampler
from rlalign.policies.memory import in_parts
from rlalign.policies.sampling.sampler import Sampler
from rlalign.rollout.agreement import check_rollout
from rlalign.rollout.collect import Rollout, collect
from rlalign.rollout.task_results import gold_of_own_weights, successes
from rlalign.storage.jsonl import json_value
from rlalign.typecheck import check_range
from rlalign.types import FloatArray, Sampling, Split, Task

_MAX_ROWS = 64  # trajectories per batch: bounds the memory use
_TASKS_PER_PROMPT = 20  # `held_out` reads at most this many tasks per different prompt that it is asked for

RESERVED = (
    "reward", "length", "kl", "fluency", "entropy", "distinct_2", "truncated", "teacher_kl", "teacher_kl_token",
)  # fmt: skip
"""Metrics that are no reward components; a component with one of these names is stored as reward/NAME."""

_ROWS_FOR_TWO = 15  # of data without named splits: a tenth of them, rounded, is two


@dataclass(frozen=True)
class Evaluation:
    """One policy on P prompts, k completions each.

    Attributes:
        metrics: name -> float [P, k]: reward; its components by name, unweighted; length (tokens); kl (nats per
            completion, log pi/ref of the sampled tokens); fluency (mean log-prob per token under the frozen reference
            policy, nats); entropy (its sampled estimate, nats per token); distinct_2 (of the completion's words);
            truncated (0 or 1); with a teacher teacher_kl (nats per completion, log pi/teacher of the sampled tokens)
            and teacher_kl_token (the same per token of the completion). NaN for a sample whose reward failed or does
            not apply. A component with the name of another metric is stored as `reward/NAME`.
        prompts: P texts.
        completions: P lists of k texts, the policy's turns without the environment's messages.
        messages: P lists of k whole trajectories, as messages with roles (see
            `rlalign.envs.episode.Episode.messages`).
        columns: P dictionaries, the columns of the tasks.
        report: corpus-level metrics of all completions, such as pass@k (see `rlalign.evaluation.text_metrics.Report`).
        scored: the environment has a reward; False: the metric reward is 0.
        envs: P names, the environments of a mixture that the prompts belong to; empty: there is one environment.
        reports: environment of a mixture -> the corpus-level metrics of its completions.
    """

    metrics: dict[str, FloatArray]
    prompts: list[str]
    completions: list[list[str]]
    report: Report = field(default_factory=Report)
    messages: list[list[list[dict[str, str]]]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    scored: bool = True
    envs: list[str] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The number of prompts in words."""
        return "1 held-out prompt" if len(self.prompts) == 1 else f"{len(self.prompts)} held-out prompts"

    def of_environment(self, env: str) -> Evaluation:
        """Return the evaluation on the prompts of one environment of a mixture, without metrics of the others.

        Args:
            env: a name of `envs`.
        """
        rows = [i for i, name in enumerate(self.envs) if name == env]
        metrics = {name: values[rows] for name, values in self.metrics.items()}
        return Evaluation(
            {name: values for name, values in metrics.items() if name == "reward" or not np.isnan(values).all()},
            [self.prompts[i] for i in rows],
            [self.completions[i] for i in rows],
            self.reports.get(env, Report()),
            [self.messages[i] for i in rows],
            [self.columns[i] for i in rows],
            self.scored,
        )

    def mean(self, name: str) -> float:
        """Return the mean over prompts of the mean over their samples; NaN if no sample could be scored.

        Args:
            name: key of `metrics`.
        """
        means = prompt_means(self.metrics[name])
        scored = means[np.isfinite(means)]
        return float(scored.mean()) if len(scored) else math.nan


def evaluate(
    policy: Policy,
    mdp: TextMDP,
    tasks: Sequence[Task],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    sampler: str = "decode",
    teacher: ReferenceScorer | None = None,
    draw: Sampler | None = None,
) -> Evaluation:
    """Sample completions of each task, score them, and compute their metrics.

    Equal arguments give equal results on the CPU. Scheduled reward weights have their last value and multipliers of
    constraints are 0, so that evaluations before and after training use the same reward. Rewards that are objects with
    `state_dict` begin in their initial state, and what the evaluation changes in it does not reach training.

    Args:
        policy: the policy to evaluate; its frozen reference policy is the one of `kl` and `fluency`. Without a
            reference, neither is measured.
        mdp: the environment, bound to the policy's tokenizer.
        tasks: held-out tasks, one per prompt; P of them.
        samples: completions per task, k; at least 1.
        sampling: the distribution to sample from.
        seed: seed of the sampled tokens and of the environment; 0 or more.
        sampler: decode (the optimized loop) or generate (transformers.generate).
        teacher: of distillation; its log-probs give the metrics teacher_kl and teacher_kl_token.
        draw: a sampler of other weights, such as an exported form of the policy, in place of `sampler`. The completions
            and log-probs are then its own, and `policy` gives the reference and the tokenizer.

    Returns:
        Metrics [P, k] with their texts, and the corpus-level report. The report has pass@k and avg@k if the environment
        has a gold score or a verifier among its rewards.

    Raises:
        FaultError: the sampler draws from another distribution than the policy's.

    Example:
        >>> from rlalign import make_mdp
        >>> from rlalign.policies.factory import make_policy
        >>> mdp = make_mdp("reverse")
        >>> policy = make_policy("gru", tokenizer=mdp.tokenizer)
        >>> tasks = [mdp.source.get("validation", i) for i in range(2)]
        >>> result = evaluate(policy, mdp, tasks, samples=3, sampling=Sampling(), seed=0)
        >>> result.metrics["reward"].shape
        (2, 3)
        >>> abs(result.mean("kl")) < 1e-5  # the policy is its own reference
        True
    """
    mdp = with_evaluation_reward(mdp)
    generator = torch.Generator(policy.device).manual_seed(seed)
    own = make_sampler(sampler, policy) if draw is None else draw
    policy.begin_rollout()
    parts: list[dict[str, FloatArray]] = []
    prompts: list[str] = []
    completions: list[list[str]] = []
    messages: list[list[list[dict[str, str]]]] = []
    tasks_per_batch = max(1, _MAX_ROWS // samples)
    for start in range(0, len(tasks), tasks_per_batch):
        batch = tasks[start : start + tasks_per_batch]
        env = TokenVectorEnv(mdp, len(batch) * samples)
        with torch.no_grad(), on_device(policy.device):
            rollout = collect(
                env, own, batch, group_size=samples, sampling=sampling, generator=generator, seed=seed + start
            )
            if start == 0 and draw is None:
                check_rollout(policy, rollout, sampling, "the evaluation")
            reference = reference_logprobs(policy, rollout, sampling) if policy.has_reference else None
            measured = _measure(rollout, reference)
            if teacher is not None:
                measured |= _distance(rollout, reference_logprobs(teacher, rollout, sampling))
        # The rows of one prompt are neighbors: [len(batch) * samples] becomes [len(batch), samples].
        parts.append({k: v.reshape(len(batch), samples) for k, v in measured.items()})
        prompts += rollout.prompts[::samples]
        for i in range(0, len(rollout), samples):
            completions.append(rollout.completions[i : i + samples])
            messages.append(rollout.messages[i : i + samples])
    metrics = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    columns = [json_value(task.columns) for task in tasks]
    results = Evaluation(metrics, prompts, completions, Report(), messages, columns, scored=mdp.has_reward)
    return _with_reports(results, mdp, tasks)


def with_evaluation_reward(mdp: TextMDP) -> TextMDP:
    """Return the environment with its reward outside of training: the states of reward objects are the initial ones."""
    for_evaluation = getattr(mdp.reward, "for_evaluation", None)  # a user's own Reward may lack it
    return mdp if for_evaluation is None else mdp.with_reward(for_evaluation())


def _with_reports(results: Evaluation, mdp: TextMDP, tasks: Sequence[Task]) -> Evaluation:
    """Return an evaluation with its corpus-level metrics, of a mixture those of each environment."""
    texts = [text for completions in results.completions for text in completions]
    if not isinstance(mdp, Mixture):
        return replace(results, report=_report(mdp, tasks, results.metrics, results.completions))
    results = replace(results, envs=[task.env for task in tasks])
    reports = {}
    for name in dict.fromkeys(results.envs):
        own = results.of_environment(name)
        # in a mixture a component may have the name of its environment behind its own
        metrics = {metric.removesuffix(f"[{name}]"): values for metric, values in own.metrics.items()}
        own_tasks = [task for task in tasks if task.env == name]
        reports[name] = _report(mdp.parts[name], own_tasks, metrics, own.completions)
    # answers of one environment say nothing about completions of another
    return replace(results, report=report([], texts, [None] * len(texts), [None] * len(texts)), reports=reports)


def _report(
    mdp: TextMDP, tasks: Sequence[Task], metrics: Mapping[str, FloatArray], completions: Sequence[Sequence[str]]
) -> Report:
    """Compute pass@k, avg@k, and the text metrics that the environment or its reward components ask for."""
    families = getattr(mdp, "metrics", None) or families_of(metrics)
    texts: list[str] = []
    answers: list[object] = []
    labels: list[object] = []
    for task, completions_of_task in zip(tasks, completions, strict=True):
        for text in completions_of_task:
            texts.append(text)
            answers.append(task.columns.get("answer"))
            labels.append(task.columns.get("labels"))
    corpus = report(families, texts, answers, labels)
    correct = successes(gold_of_own_weights(mdp), metrics)
    figures: dict[str, float] = {}
    if correct is not None:
        samples = len(completions[0])
        for k in sorted({1, samples}):
            figures |= attempts(correct, k)
    return Report(figures) | corpus


def reference_logprobs(policy: ReferenceScorer, rollout: Rollout, sampling: Sampling) -> torch.Tensor:
    """Return float32 [N, L] on the CPU: log-probs of the rollout's actions under the frozen reference policy."""

    def score(rows: torch.Tensor) -> torch.Tensor:
        layout = (rollout.tokens[rows], rollout.lengths[rows], rollout.action_mask[rows])
        return policy.reference_logprobs(*layout, sampling).float().cpu()

    with torch.no_grad():
        return torch.cat(in_parts(score, torch.arange(len(rollout))))


def _measure(rollout: Rollout, reference: torch.Tensor | None) -> dict[str, FloatArray]:
    """Return metric -> [N] of a rollout; `reference` holds the reference log-probs [N, L], if there is one."""
    actions = rollout.num_actions.clamp(min=1)  # an empty completion divides 0 by 1
    assert rollout.sampler_logprobs is not None  # it was sampled
    of_reference: dict[str, FloatArray] = {}
    if reference is not None:
        kl = (rollout.sampler_logprobs - reference).sum(1)  # both are 0 outside the action mask
        of_reference["kl"] = kl.double().numpy()
        of_reference["fluency"] = (reference.sum(1) / actions).double().numpy()
    return {
        "reward": rollout.returns.double().numpy(),
        **{f"reward/{k}" if k in RESERVED else k: v.numpy() for k, v in rollout.components.items()},
        "length": rollout.num_actions.double().numpy(),
        **of_reference,
        "entropy": (-rollout.sampler_logprobs.sum(1) / actions).double().numpy(),
        "distinct_2": np.array([distinct([text], 2) for text in rollout.completions]),
        "truncated": rollout.truncated.double().numpy(),
    }


def _distance(rollout: Rollout, teacher: torch.Tensor) -> dict[str, FloatArray]:
    """Return the KL to a teacher of each completion [N], and per token; `teacher` holds its log-probs [N, L]."""
    assert rollout.sampler_logprobs is not None  # it was sampled
    kl = (rollout.sampler_logprobs - teacher).sum(1).double()
    return {"teacher_kl": kl.numpy(), "teacher_kl_token": (kl / rollout.num_actions.clamp(min=1)).numpy()}


def held_out_sizes(config: TrainConfig, split: str, prompts: int | None, samples: int | None) -> tuple[int, int]:
    """Return the numbers of held-out prompts and of completions per prompt of an evaluation.

    Args:
        config: of the run; it has the numbers that are None.
        split: train, validation or test.
        prompts: at least 2.
        samples: at least 1.

    Raises:
        UserError: the split is unknown, or a number is too small.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': use train, validation or test")
    prompts = config.evaluation.prompts if prompts is None else prompts
    samples = config.evaluation.samples if samples is None else samples
    check_range("prompts", prompts, least=2)
    check_range("samples (--k)", samples, least=1)
    return prompts, samples


def held_out(mdp: TextMDP, split: Split, count: int) -> list[Task]:
    """Return the first `count` tasks of a split with different prompts, or fewer if the split has fewer.

    Of a mixture, the first `count` of each environment.
    A repeated prompt would count as two independent prompts. With several turns, tasks of one prompt differ by their
    columns, because the environment messages depend on them.

    Raises:
        UserError: if the split is empty.
    """
    if isinstance(mdp, Mixture):
        parts = mdp.parts.items()
        return [mdp.tagged(name, task) for name, part in parts for task in held_out(part, split, count)]
    size = mdp.source.size(split)
    if size == 0:
        raise UserError(f"{mdp.id}: expected {split} tasks, got none; add more data")
    limit = _TASKS_PER_PROMPT * count if size is None else min(_TASKS_PER_PROMPT * count, size)
    tasks: dict[str, Task] = {}
    for i in range(limit):
        task = mdp.source.get(split, i)
        identity = task.prompt if mdp.max_turns == 1 else (task.prompt, dict(task.columns))
        tasks.setdefault(repr(identity), task)
        if len(tasks) == count:
            break
    return list(tasks.values())


def few_prompts(mdp: TextMDP, split: Split) -> str:
    """Return a warning if a split has fewer than the two different prompts that an interval needs, else an empty text.

    Args:
        mdp: the environment.
        split: the split of the final evaluation.
    """
    if all(len(held_out(part, split, 2)) == 2 for part in parts_of(mdp).values()):
        return ""
    return (
        f"the split {split} has one prompt, and an interval needs two, so the run will end without a claim; use two "
        f"rows or more for it ({_ROWS_FOR_TWO} rows of different prompts in all, if the data name no splits)"
    )


def prompt_means(x: FloatArray) -> FloatArray:
    """Reduce [P, k] to [P]: the mean over the samples that could be scored; NaN if none could."""
    scored = np.isfinite(x)
    # np.nanmean would give the same values, but warns for a prompt without a score and keeps infinities.
    totals = np.where(scored, x, 0.0).sum(1)
    means: FloatArray = np.where(scored.any(1), totals / np.maximum(scored.sum(1), 1), np.nan)
    return means

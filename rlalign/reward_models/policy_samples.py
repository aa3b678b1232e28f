"""A reward model among several samples of the policy that it will train.

Accuracy on pairs weakly predicts the policy that a reward model trains (Wen et al., arXiv 2410.05584). Two measures are
closer to it: whether the best of k samples by the model is the best by another reward (best-of-k accuracy, as in
RewardBench 2, arXiv 2506.01937), and whether the samples of a prompt differ in reward at all, since a flat reward gives
no gradient (Razin et al., arXiv 2503.15477).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.feedback.statistics.estimate import Estimate, without_nan
from rlalign.preferences.pairs import is_side
from rlalign.reward_models.metrics import mean_of
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.types import FloatArray

_PROMPTS = 16
"""Prompts that are sampled together."""


@dataclass(frozen=True)
class PolicySamples:
    """Samples of a policy: k completions for each of P prompts.

    Attributes:
        scores: of the reward model, P arrays [k].
        gold: of another reward, P arrays [k]; empty: there is none.
    """

    scores: Sequence[FloatArray]
    gold: Sequence[FloatArray] = ()


@dataclass(frozen=True)
class SampleMetrics:
    """Metrics of a reward model among the samples of a policy.

    Attributes:
        prompts: number of prompts.
        k: mean number of samples per prompt.
        variance: mean over prompts of the variance of the scores within a prompt, with k - 1 in the denominator.
        share_within: that, as a share of it plus the variance of the prompts' means.
        flat: share of prompts whose samples all have one score.
        best_of_k: share of prompts whose best sample by score has the highest gold reward; several best ones share.
        chance: the same for a sample drawn at random.
        gold_gain: gold reward of the best sample by score minus the mean of all, averaged over prompts.
    """

    prompts: int
    k: float
    variance: float
    share_within: float
    flat: float
    best_of_k: Estimate | None = None
    chance: float = math.nan
    gold_gain: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the metrics as JSON values; NaN is None."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v.to_json() if isinstance(v, Estimate) else without_nan(v) for n, v in values.items()}


def sample_metrics(samples: PolicySamples) -> SampleMetrics:
    """Return the metrics of samples; prompts with fewer than two scored samples are left out.

    Raises:
        UserError: no prompt has two scored samples.
    """
    rows = [i for i, scores in enumerate(samples.scores) if np.isfinite(scores).sum() >= 2]
    if not rows:
        raise UserError("expected two or more scored samples per prompt, got fewer; use k=8")
    scores = [samples.scores[i][np.isfinite(samples.scores[i])] for i in rows]
    within = float(np.mean([s.var(ddof=1) for s in scores]))
    between = float(np.var([s.mean() for s in scores]))
    facts: dict[str, Any] = {
        "prompts": len(rows),
        "k": float(np.mean([len(s) for s in scores])),
        "variance": within,
        "share_within": within / (within + between) if within + between else math.nan,
        "flat": float(np.mean([np.ptp(s) == 0 for s in scores])),
    }
    if not samples.gold:
        return SampleMetrics(**facts)
    gold = [samples.gold[i][np.isfinite(samples.scores[i])] for i in rows]
    number = np.arange(len(rows))
    hits = np.array([best_of_k(s, g) for s, g in zip(scores, gold, strict=True)])
    gains = np.array([float(g[s == s.max()].mean() - g.mean()) for s, g in zip(scores, gold, strict=True)])
    return SampleMetrics(
        **facts,
        best_of_k=mean_of(hits, number, "share of prompts whose best of k by score is best by gold"),
        chance=float(np.mean([best_of_k(np.zeros(len(g)), g) for g in gold])),
        gold_gain=mean_of(gains, number, "gold of the best of k by score minus mean gold"),
    )


def best_of_k(scores: FloatArray, gold: FloatArray) -> float:
    """Return the share of the best samples by score [k] that have the highest gold reward [k].

    Example:
        >>> best_of_k(np.array([1.0, 2.0, 2.0]), np.array([0.0, 5.0, 1.0]))
        0.5
    """
    return float((gold[scores == scores.max()] == gold.max()).mean())


def read_samples(path: Path, scorer: Any) -> PolicySamples:
    """Return the samples of a .jsonl file, scored.

    A row has `prompt` and `completions`, and optionally `gold` (numbers) and `cut` (flags), one per completion.

    Args:
        path: of the file.
        scorer: scores samples.

    Raises:
        UserError: names the row that has other columns.
    """
    from rlalign.preferences.files import read_rows

    scores: list[FloatArray] = []
    gold: list[FloatArray] = []
    for row in read_rows(path):
        record = row.record
        completions = record.get("completions") if isinstance(record, Mapping) else None
        if row.problem or not isinstance(completions, list) or not all(map(is_side, completions)):
            raise UserError(
                f"{row.place}: expected prompt and completions, got {row.problem or 'other columns'}; use both"
            )
        cut = record.get("cut") or [False] * len(completions)
        values = record.get("gold")
        for name, column in (("cut", cut), ("gold", values)):
            if column is not None and (not isinstance(column, list) or len(column) != len(completions)):
                raise UserError(f"{row.place}: expected {len(completions)} values in '{name}', got {column!r:.40}")
        prompt = record.get("prompt") or ""
        samples = [Sample(prompt, text, bool(flag)) for text, flag in zip(completions, cut, strict=True)]
        scores.append(scorer.scores(samples))
        if values is not None:
            gold.append(np.asarray(values, np.float64))
    if gold and len(gold) != len(scores):
        raise UserError(f"'{path}': expected gold rewards in all {len(scores)} rows or none, got {len(gold)}")
    return PolicySamples(scores, gold)


def sample_run(
    run: Path, model: str, *, gold: str = "", prompts: int = 50, k: int = 8, seed: int = 0, trust_run: bool = False
) -> PolicySamples:
    """Return scored samples of the policy of a run on its held-out prompts.

    Args:
        run: run folder.
        model: folder of the reward model, with a `/`.
        gold: spec of another reward; empty: none.
        prompts: number of held-out prompts.
        k: samples per prompt.
        seed: of the samples.
        trust_run: run code that the run folder names.

    Raises:
        UserError: the run or a reward cannot be used, or a number is out of range.
    """
    import torch

    from rlalign.envs.vector_env import TokenVectorEnv
    from rlalign.evaluation.evaluate import held_out
    from rlalign.policies.factory import make_sampler
    from rlalign.rewards import compose
    from rlalign.rewards.specs import resolve
    from rlalign.rollout.collect import collect
    from rlalign.run import Run
    from rlalign.typecheck import check_range

    check_range("prompts", prompts, least=2)
    check_range("k", k, least=2)
    trained = Run(run, trust=trust_run)
    weights: dict[Any, float] = {model: 1.0, **({gold: 0.0} if gold else {})}
    names = [reward.name for reward, _ in resolve(weights)]
    reward = compose(weights)
    policy = trained.policy
    try:
        mdp = trained.build_mdp().with_reward(reward)
        mdp.reward.bind(policy)
        tasks = held_out(mdp, "test", prompts)
        sampler = make_sampler("decode", policy)
        values: dict[str, list[FloatArray]] = {name: [] for name in names}
        policy.begin_rollout()
        generator = torch.Generator(policy.device).manual_seed(seed)
        for start in range(0, len(tasks), _PROMPTS):
            part = tasks[start : start + _PROMPTS]
            with torch.no_grad():
                rollout = collect(
                    TokenVectorEnv(mdp, len(part) * k), sampler, part, group_size=k,
                    sampling=trained.config.rollout.sampling, generator=generator, seed=seed + start,
                )  # fmt: skip
            for name in names:
                values[name] += list(rollout.components[name].double().cpu().numpy().reshape(len(part), k))
    finally:
        reward.close()
    return PolicySamples(values[names[0]], values[names[1]] if gold else [])

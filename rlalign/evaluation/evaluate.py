"""Is the policy better than it was? Held-out prompts, the same for both, and the paired difference with its CI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.evaluation.text_metrics import Report, attempts, distinct, families_of, report
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import Rollout, collect
from rlalign.types import BoolArray, FloatArray, Sampling, Split, Task

_ROWS = 64  # trajectories at once
_LOOK = 20  # tasks looked at for each different prompt that is wanted


@dataclass(frozen=True)
class Evaluation:
    """One policy on P prompts, k completions each.

    Attributes:
        metrics: name -> [P, k]: reward, its components, length (tokens), kl (nats per completion, log pi/ref of what
            was sampled), fluency (mean log-prob per token under the frozen start, nats), entropy (its sampled estimate,
            nats per token), distinct_2 (of the completion's words), truncated (0 or 1). NaN where a reward failed.
        prompts: P texts.
        completions: P lists of k texts.
        report: corpus-level figures of all completions (see `rlalign.evaluation.text_metrics`).
    """

    metrics: dict[str, FloatArray]
    prompts: list[str]
    completions: list[list[str]]
    report: Report = field(default_factory=Report)

    def mean(self, name: str) -> float:
        """Mean over prompts of the mean over their samples."""
        means = prompt_means(self.metrics[name])
        seen = means[np.isfinite(means)]
        return float(seen.mean()) if len(seen) else math.nan


def evaluate(
    policy: Policy,
    mdp: TextMDP,
    tasks: Sequence[Task],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    sampler: str = "decode",
) -> Evaluation:
    """Sample `samples` completions of each task and score them; equal arguments give equal results on the CPU."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    drawn = make_sampler(sampler, policy)
    policy.begin_rollout()
    parts: list[dict[str, FloatArray]] = []
    prompts: list[str] = []
    completions: list[list[str]] = []
    chunk = max(1, _ROWS // samples)
    for start in range(0, len(tasks), chunk):
        some = tasks[start : start + chunk]
        env = TokenVectorEnv(mdp, len(some) * samples)
        with torch.no_grad():
            rollout = collect(
                env, drawn, some, group_size=samples, sampling=sampling, generator=generator, seed=seed + start
            )
            reference = reference_logprobs(policy, rollout, sampling)
        parts.append({k: v.reshape(len(some), samples) for k, v in _measure(rollout, reference).items()})
        prompts += rollout.prompts[::samples]
        completions += [rollout.completions[i : i + samples] for i in range(0, len(rollout), samples)]
    metrics = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return Evaluation(metrics, prompts, completions, _report(mdp, tasks, metrics, completions))


def _report(
    mdp: TextMDP, tasks: Sequence[Task], metrics: Mapping[str, FloatArray], completions: Sequence[Sequence[str]]
) -> Report:
    """Figures of the families that the environment names (`metrics`) or its rewards speak for, and pass@k."""
    families = getattr(mdp, "metrics", None) or families_of(metrics)
    rows = [(text, task.columns) for task, texts in zip(tasks, completions, strict=True) for text in texts]
    answers, labels = ([columns.get(name) for _, columns in rows] for name in ("answer", "labels"))
    found = report(families, [text for text, _ in rows], answers, labels)
    own = mdp.has_reward and list(mdp.reward.weights.values()) == list(mdp.rewards.values())
    right = successes(mdp.gold_score if own else None, metrics)
    samples = len(completions[0])
    tries = {} if right is None else {k: v for n in sorted({1, samples}) for k, v in attempts(right, n).items()}
    return Report(tries) | found


_VERIFIED = ("exact_match", "math_verify", "code", "label_match")  # components whose 1 means that the answer is right


def successes(gold_score: float | None, metrics: Mapping[str, FloatArray]) -> BoolArray | None:
    """bool [P, k], where the answer is right: the gold score was reached, or a verifier gave 1; None without either."""
    if gold_score is not None:
        return metrics["reward"] >= gold_score - 1e-6
    found = next((metrics[name] for name in _VERIFIED if name in metrics), None)
    return None if found is None else found >= 1.0


def reference_logprobs(policy: Policy, rollout: Rollout, sampling: Sampling) -> torch.Tensor:
    """float32 [N, L] on the CPU: log-probs of the rollout's actions under the frozen start."""
    with torch.no_grad():
        found = policy.reference_logprobs(rollout.tokens, rollout.lengths, rollout.action_mask, sampling)
    return found.float().cpu()


# a component of such a name is shown as reward/NAME
_OWN = ("reward", "length", "kl", "fluency", "entropy", "distinct_2", "truncated")


def _measure(rollout: Rollout, reference: torch.Tensor) -> dict[str, FloatArray]:
    actions = rollout.num_actions.clamp(min=1)
    kl = (rollout.sampler_logprobs - reference).sum(1)  # both are 0 off the mask
    return {
        "reward": rollout.returns.double().numpy(),
        **{f"reward/{k}" if k in _OWN else k: v.numpy() for k, v in rollout.components.items()},
        "length": rollout.num_actions.double().numpy(),
        "kl": kl.double().numpy(),
        "fluency": (reference.sum(1) / actions).double().numpy(),
        "entropy": (-rollout.sampler_logprobs.sum(1) / actions).double().numpy(),
        "distinct_2": np.array([distinct([text], 2) for text in rollout.completions]),
        "truncated": rollout.truncated.double().numpy(),
    }


def held_out(mdp: TextMDP, split: Split, count: int) -> list[Task]:
    """The first `count` tasks of a split with different prompts, or as many as there are.

    A prompt that comes twice would count as two independent ones. Where the environment answers, tasks of one prompt
    differ by their columns: what is hidden in them shows in the replies. Raises UserError when the split is empty.
    """
    from rlalign.errors import UserError

    size = mdp.source.size(split)
    if size == 0:
        raise UserError(f"{mdp.id} has no {split} tasks: give it more data")
    found: dict[str, Task] = {}
    for i in range(_LOOK * count if size is None else min(_LOOK * count, size)):
        task = mdp.source.get(split, i)
        found.setdefault(repr(task.prompt if mdp.max_turns == 1 else (task.prompt, dict(task.columns))), task)
        if len(found) == count:
            break
    return list(found.values())


def prompt_means(x: FloatArray) -> FloatArray:
    """[P, k] to [P]: mean over the samples that could be scored; NaN where none could."""
    seen = np.isfinite(x)
    means: FloatArray = np.where(seen.any(1), np.where(seen, x, 0.0).sum(1) / np.maximum(seen.sum(1), 1), np.nan)
    return means

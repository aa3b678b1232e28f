"""Is the policy better than it was? Held-out prompts, the same for both, and the paired difference with its CI."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.patience import Patience
from rlalign.policies import make_sampler
from rlalign.policies.base import Policy
from rlalign.policies.folder import saved_tokenizer
from rlalign.rollout import Rollout, collect
from rlalign.text_metrics import Report, attempts, distinct, families_of, fold_means, report
from rlalign.tracking import nullable
from rlalign.types import BoolArray, FloatArray, Sampling, Split, Task

if TYPE_CHECKING:
    from rlalign.run import Run

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
        report: corpus-level figures of all completions (see `rlalign.text_metrics`).
    """

    metrics: dict[str, FloatArray]
    prompts: list[str]
    completions: list[list[str]]
    report: Report = field(default_factory=Report)

    def mean(self, name: str) -> float:
        """Mean over prompts of the mean over their samples."""
        means = _row_means(self.metrics[name])
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
    own = mdp.reward is not None and list(mdp.reward.weights.values()) == list(mdp.rewards.values())
    right = successes(mdp.gold_score if own else None, metrics)
    samples = len(completions[0])
    tries = {} if right is None else {k: v for n in {1, samples} for k, v in attempts(right, n).items()}
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
    device = policy.device
    with torch.no_grad():
        found = policy.reference_logprobs(
            rollout.tokens.to(device), rollout.lengths.to(device), rollout.action_mask.to(device), sampling
        )
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


@dataclass(frozen=True)
class Difference:
    """A paired difference, after − before, over prompts: mean, 95 % CI (Student's t), number of prompts."""

    mean: float
    low: float
    high: float
    n: int


def paired_difference(before: FloatArray, after: FloatArray) -> Difference:
    """Mean and t-interval of the per-prompt differences of two [P, k] arrays; prompts that failed are left out.

    The prompt is the unit: samples of one prompt are averaged first, since they are not independent.
    """
    from scipy import stats

    with np.errstate(invalid="ignore"):
        gaps = _row_means(after) - _row_means(before)
    gaps = gaps[np.isfinite(gaps)]
    n, mean = len(gaps), float(gaps.mean()) if len(gaps) else math.nan
    error = float(gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * error if n > 1 else math.nan
    return Difference(mean, mean - half, mean + half, n)


def _row_means(x: FloatArray) -> FloatArray:
    seen = np.isfinite(x)
    means: FloatArray = np.where(seen.any(1), np.where(seen, x, 0.0).sum(1) / np.maximum(seen.sum(1), 1), np.nan)
    return means


@dataclass(frozen=True)
class Comparison:
    """Before and after on the same prompts.

    Attributes:
        before, after: of the start, or another baseline, and of the run.
        folds: disjoint parts of the prompts over which `cross_validated` looks; 0: none.
    """

    before: Evaluation
    after: Evaluation
    folds: int = 0

    @property
    def differences(self) -> dict[str, Difference]:
        """Metric -> paired difference."""
        both = [k for k in self.before.metrics if k in self.after.metrics]
        return {k: paired_difference(self.before.metrics[k], self.after.metrics[k]) for k in both}

    @property
    def cross_validated(self) -> dict[str, dict[str, float]]:
        """Metric -> mean and standard deviation over folds of before, after and their difference."""
        both = [k for k in self.before.metrics if k in self.after.metrics] if self.folds else []
        return {k: self._over_folds(k) for k in both}

    def _over_folds(self, name: str) -> dict[str, float]:
        before, after = (_row_means(e.metrics[name]) for e in (self.before, self.after))
        found: dict[str, float] = {}
        for what, values in (("before", before), ("after", after), ("difference", after - before)):
            means = fold_means(values, self.folds)
            known = means[np.isfinite(means)]
            found[what] = float(known.mean()) if len(known) else math.nan
            found[f"{what}_std"] = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        return found

    @property
    def verdict(self) -> str:
        """One sentence that says whether the policy got better."""
        d = self.differences["reward"]
        what = f"reward {d.mean:+.3f} on {d.n} held-out prompts, 95 % CI [{d.low:+.3f}, {d.high:+.3f}]"
        if math.isnan(d.low):
            return f"Nothing can be said: too few prompts could be scored ({d.n})."
        if d.low > 0:
            return f"The policy got better: {what}."
        if d.high < 0:
            return f"The policy got worse: {what}."
        return f"No difference can be claimed: {what}."

    def to_dict(self) -> dict[str, Any]:
        """JSON values: per metric before, after and the difference; verdict; texts; each prompt's own means."""
        return {
            "verdict": self.verdict,
            "metrics": {
                k: {"before": self.before.mean(k), "after": self.after.mean(k), "difference": asdict(d)}
                for k, d in self.differences.items()
            },
            "corpus": {"before": asdict(self.before.report), "after": asdict(self.after.report)},
            **({"folds": {"count": self.folds, "metrics": self.cross_validated}} if self.folds else {}),
            "prompts": {
                when: {k: _row_means(v).tolist() for k, v in e.metrics.items()}
                for when, e in (("before", self.before), ("after", self.after))
            },
            "samples": [
                {"prompt": p, "before": b, "after": a}
                for p, b, a in zip(self.before.prompts, self.before.completions, self.after.completions, strict=True)
            ],
        }

    def __repr__(self) -> str:
        return self.verdict


def write_comparison(folder: Path, comparison: Comparison, name: str = "evaluation.json") -> Path:
    """Write report/evaluation.json of a run folder and return its path."""
    path = folder / "report" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nullable(comparison.to_dict()), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


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


def evaluate_run(
    run: Run,
    *,
    split: str = "test",
    prompts: int | None = None,
    samples: int | None = None,
    env: str | None = None,
    baseline: str | None = None,
    folds: int = 0,
) -> Comparison:
    """Evaluate a run's start and its result on the same held-out prompts and write the report.

    The start is rebuilt from the configuration and the seed, which is how the run itself got it.

    Args:
        run: the run.
        split, prompts, samples: held-out tasks, and completions of each; None: as the run's own evaluation.
        env: another environment than the run's.
        baseline: another run folder, policy folder or policy name in place of the start.
        folds: disjoint parts of the prompts for a cross-validated estimate; 0: none.
    """
    from rlalign.build import build_mdp, build_policy
    from rlalign.errors import UserError
    from rlalign.plots import plot_comparison

    if split not in ("train", "validation", "test"):
        raise UserError(f"unknown split '{split}': use train, validation or test")
    config = run.config
    prompts = config.evaluation.prompts if prompts is None else prompts
    samples = config.evaluation.samples if samples is None else samples
    for name, value, least in (("prompts", prompts, 2), ("samples", samples, 1)):
        if value < least:
            raise UserError(f"{name} is {value}: it must be at least {least}")
    given, rewards = run.objects
    if env is None:
        mdp = build_mdp(config, env=given, rewards=rewards)
    else:
        mdp = build_mdp(replace(config, env=env), rewards=rewards)
        if (spoken := saved_tokenizer(run.folder / "policy")) is not None:  # the policy keeps its own tokens
            mdp = mdp.with_tokenizer(spoken)
    policy, mdp = build_policy(config, mdp)
    tasks = held_out(mdp, split, prompts)  # type: ignore[arg-type]  # checked above
    settings: dict[str, Any] = {
        "samples": samples,
        "sampling": config.rollout.sampling,
        "seed": config.seed,
        "sampler": config.rollout.sampler,
    }
    if folds and not 2 <= folds <= len(tasks):
        raise UserError(f"{folds} folds of {len(tasks)} prompts: give 2 or more, and --prompts for more prompts")
    if baseline is None:
        before = evaluate(policy, mdp, tasks, **settings)
    else:
        other = _baseline(baseline, mdp, policy.device, config.seed)
        before = evaluate(other, mdp.with_tokenizer(other.tokenizer), tasks, **settings)
    restore_trained(policy, run)
    comparison = Comparison(before, evaluate(policy, mdp, tasks, **settings), folds)
    name = "evaluation" if split == "validation" else f"evaluation-{split}"
    write_comparison(run.folder, comparison, f"{name}.json")
    plot_comparison(nullable(comparison.to_dict()), run.folder / "report" / f"{name}.png")
    return comparison


def _baseline(name: str, mdp: TextMDP, device: torch.device, seed: int) -> Policy:
    """The policy of a run folder, a policy folder or a name; its own reference is what it is now."""
    from rlalign.policies import make_policy

    trained = Path(name) / "policy"
    return make_policy(str(trained) if trained.is_dir() else name, tokenizer=mdp.tokenizer, device=device, seed=seed)


def restore_trained(policy: Policy, run: Run) -> None:
    """Put the trained weights of a run's newest checkpoint into its freshly built policy."""
    from rlalign import checkpoint

    state, _ = checkpoint.load(checkpoint.latest(run.folder / "checkpoints"), need=("policy", "progress"))
    policy.load_trainable(state["policy"])
    best = Patience(run.folder, run.config.evaluation.patience)
    best.load_state_dict(state["progress"].get("patience", best.state_dict()))
    best.restore(policy)

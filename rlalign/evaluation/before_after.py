"""Two evaluations on the same prompts: paired differences, their confidence intervals, and a one-line verdict."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.evaluation.evaluate import Evaluation, prompt_means
from rlalign.evaluation.mean_interval import MeanInterval, mean_interval
from rlalign.evaluation.signed_bounds import decimals_of, signed_bounds
from rlalign.evaluation.text_metrics import fold_means
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.types import FloatArray

_MOSTLY = 0.9  # share of cut completions that is reported in words


@dataclass(frozen=True)
class Difference(MeanInterval):
    """A paired difference, after - before, over prompts.

    Attributes:
        mean: mean of the per-prompt differences; NaN without a scored prompt.
        low: lower end of the 95 % confidence interval (Student's t); NaN with fewer than two scored prompts.
        high: upper end of the interval.
        n: number of prompts that both evaluations could score.
    """

    @property
    def same(self) -> bool:
        """Whether the difference is equal on each prompt.

        The sample then has no spread to estimate an interval from, and an interval of zero width would claim certainty.
        """
        return self.low == self.high

    @property
    def evidence(self) -> str:
        """The interval in words."""
        bounds = signed_bounds(self.low, self.high)
        return "the same difference on each" if self.same else f"95 % CI of the difference {bounds}"

    def change(self, before: float, after: float) -> str:
        """Return two means as text, with the decimals that the interval needs.

        Args:
            before: mean before training.
            after: mean after training.
        """
        digits = decimals_of(self.low, self.high)
        return f"{before:.{digits}f} -> {after:.{digits}f}"


def paired_difference(before: FloatArray, after: FloatArray) -> Difference:
    """Compute the mean and the 95 % t-interval of the per-prompt differences of two [P, k] arrays.

    With d_p the difference of the means of prompt p, over the n prompts that both sides could score::

        mean(d) ± t(0.975, n - 1) · std(d) / √n        std with n - 1 in the denominator

    The prompt is the unit: the samples of one prompt are not independent and are averaged first. Prompts that either
    side could not score are left out.

    Args:
        before: float [P, k], NaN for a sample that could not be scored.
        after: float [P, k'], on the same prompts in the same order.

    Returns:
        The difference after - before.

    Example:
        >>> import numpy as np
        >>> gain = paired_difference(np.array([[0.0], [0.2], [0.1]]), np.array([[0.5], [0.6], [0.7]]))
        >>> print(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}], n = {gain.n}")
        +0.50 [+0.25, +0.75], n = 3
    """
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which the next line drops
        gaps = prompt_means(after) - prompt_means(before)
    return Difference(**asdict(mean_interval(gaps)))


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the same prompts, before and after training.

    Attributes:
        before: evaluation of the initial policy, or of another baseline.
        after: evaluation of the trained policy.
        folds: number of disjoint parts of the prompts for `cross_validated`; 0: none.
    """

    before: Evaluation
    after: Evaluation
    folds: int = 0

    @property
    def differences(self) -> dict[str, Difference]:
        """Metric -> paired difference, for the metrics that both evaluations have."""
        return {
            name: paired_difference(self.before.metrics[name], self.after.metrics[name])
            for name in self._common_metrics()
        }

    @property
    def cross_validated(self) -> dict[str, dict[str, float]]:
        """Metric -> mean over folds of `before`, `after` and `difference`, and their standard deviations `..._std`.

        Empty without folds.
        """
        if not self.folds:
            return {}
        return {name: self._over_folds(name) for name in self._common_metrics()}

    @property
    def by_environment(self) -> dict[str, Comparison]:
        """Environment of a mixture -> the comparison on its prompts; empty for one environment."""
        names = dict.fromkeys(self.before.envs)
        return {name: Comparison(self.before.of_environment(name), self.after.of_environment(name)) for name in names}

    def means(self, name: str) -> tuple[float, float]:
        """Return the means before and after, over the prompts that both evaluations could score, as the difference is.

        Without such a prompt, each is the mean over its own prompts.

        Args:
            name: key of `differences`.
        """
        before = prompt_means(self.before.metrics[name])
        after = prompt_means(self.after.metrics[name])
        shared = np.isfinite(before) & np.isfinite(after)
        if not shared.any():
            return self.before.mean(name), self.after.mean(name)
        return float(before[shared].mean()), float(after[shared].mean())

    @property
    def cut(self) -> str:
        """A sentence if more than 90 % of the completions after were cut at the limit of tokens, else an empty text.

        Only for tasks with reference answers: a completion that is cut seldom holds one.
        """
        share = self.after.mean("truncated") if "truncated" in self.after.metrics else 0.0
        if not share > _MOSTLY or not any("answer" in columns for columns in self.after.columns):
            return ""
        lengths = self.after.metrics["length"][self.after.metrics["truncated"] > 0]
        limit = f"{lengths.max():.0f} tokens" if lengths.min() == lengths.max() else "the limit of tokens"
        return f"{100 * share:.0f} % of the completions were cut at {limit} before they ended; raise --rollout.max-new"

    def _common_metrics(self) -> list[str]:
        return [name for name in self.before.metrics if name in self.after.metrics]

    def _over_folds(self, name: str) -> dict[str, float]:
        before = prompt_means(self.before.metrics[name])
        after = prompt_means(self.after.metrics[name])
        estimates: dict[str, float] = {}
        for column, values in (("before", before), ("after", after), ("difference", after - before)):
            means = fold_means(values, self.folds)
            means = means[np.isfinite(means)]  # a fold without a scored prompt has no mean
            estimates[column] = float(means.mean()) if len(means) else math.nan
            estimates[f"{column}_std"] = float(means.std(ddof=1)) if len(means) > 1 else math.nan
        return estimates

    @property
    def verdict(self) -> str:
        """The measured change of the reward in one line.

        A change is claimed only if the 95 % interval excludes 0.
        """
        if not self.after.scored:
            return "nothing scores these prompts; use rlalign evaluate with --reward, or train with --env"
        d = self.differences["reward"]
        if math.isnan(d.low):
            return f"too few prompts could be scored ({d.n})"
        prompts = f"{d.n} held-out prompts"
        interval = signed_bounds(d.low, d.high)
        size = f"{abs(d.mean):.{decimals_of(d.low, d.high)}f}"
        if d.low > 0:
            evidence = f"on each of {prompts}" if d.same else f"(95 % CI {interval}, {prompts})"
            return f"reward improved by +{size} {evidence}"
        if d.high < 0:
            evidence = f"on each of {prompts}" if d.same else f"({d.evidence}, {prompts})"
            return f"reward decreased by {size} {evidence}"
        if d.same:
            return f"no difference can be claimed: the reward is the same on each prompt ({prompts})"
        sign = "-" if d.mean < 0 and float(size) else "+"
        return f"no difference can be claimed: reward {sign}{size} (95 % CI {interval}, {prompts})"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: verdict, metrics before and after with their differences, texts, and prompt means.

        Of a mixture, `environments` has verdict, metrics and corpus of each environment.
        """
        comparison = self._summary()
        if self.before.envs:
            comparison["environments"] = {name: part._summary() for name, part in self.by_environment.items()}
        if self.folds:
            comparison["folds"] = {"count": self.folds, "metrics": self.cross_validated}
        comparison["prompts"] = {"before": _means_by_prompt(self.before), "after": _means_by_prompt(self.after)}
        comparison["samples"] = self.samples()
        return comparison

    def _summary(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "metrics": {
                name: {**dict(zip(("before", "after"), self.means(name), strict=True)), "difference": asdict(d)}
                for name, d in self.differences.items()
            },
            "corpus": {"before": asdict(self.before.report), "after": asdict(self.after.report)},
        }

    def samples(self, count: int | None = None) -> list[dict[str, Any]]:
        """Return the first `count` prompts, with their columns and completions; None: all.

        `before` and `after` are texts without environment messages; `messages` has the whole trajectories of several
        turns, with their roles.
        """
        return [self._sample(i) for i in range(len(self.before.prompts))[:count]]

    def _sample(self, i: int) -> dict[str, Any]:
        before = self.before
        after = self.after
        sample: dict[str, Any] = {"prompt": before.prompts[i]}
        if before.envs:
            sample["env"] = before.envs[i]
        if before.columns and before.columns[i]:
            sample["columns"] = before.columns[i]
        sample |= {"before": before.completions[i], "after": after.completions[i]}
        trajectories = [e.messages[i] if e.messages else [] for e in (before, after)]
        if any(message["role"] == "environment" for part in trajectories for row in part for message in row):
            sample["messages"] = {"before": trajectories[0], "after": trajectories[1]}
        return sample

    def __repr__(self) -> str:
        return self.verdict


def _means_by_prompt(evaluation: Evaluation) -> dict[str, list[float]]:
    return {name: prompt_means(values).tolist() for name, values in evaluation.metrics.items()}


def write_comparison(folder: Path, comparison: Comparison, name: str = "evaluation.json") -> Path:
    """Write report/`name` of a run folder atomically and return its path."""
    text = json.dumps(nullable(comparison.to_dict()), ensure_ascii=False, indent=1) + "\n"
    return write_atomic(folder / "report" / name, text)

"""Before and after on the same prompts: paired differences with their intervals, and one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.evaluation.evaluate import Evaluation, prompt_means
from rlalign.evaluation.text_metrics import fold_means
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.types import FloatArray


@dataclass(frozen=True)
class Difference:
    """A paired difference, after − before, over prompts: mean, 95 % CI (Student's t), number of prompts."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def same(self) -> bool:
        """Equal on every prompt, which says nothing of the spread: an interval of no width would be false certainty."""
        return self.low == self.high


def paired_difference(before: FloatArray, after: FloatArray) -> Difference:
    """Mean and t-interval of the per-prompt differences of two [P, k] arrays; prompts that failed are left out.

    The prompt is the unit: samples of one prompt are averaged first, since they are not independent.
    """
    from scipy import stats

    with np.errstate(invalid="ignore"):
        gaps = prompt_means(after) - prompt_means(before)
    gaps = gaps[np.isfinite(gaps)]
    n, mean = len(gaps), float(gaps.mean()) if len(gaps) else math.nan
    error = float(gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    half = float(stats.t.ppf(0.975, n - 1)) * error if n > 1 else math.nan
    return Difference(mean, mean - half, mean + half, n)


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
        before, after = (prompt_means(e.metrics[name]) for e in (self.before, self.after))
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
        within = "the same on each" if d.same else f"95 % CI [{d.low:+.3f}, {d.high:+.3f}]"
        what = f"reward {d.mean:+.3f} on {d.n} held-out prompts, {within}"
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
                when: {k: prompt_means(v).tolist() for k, v in e.metrics.items()}
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
    """Write report/evaluation.json of a run folder, whole or not at all, and return its path."""
    text = json.dumps(nullable(comparison.to_dict()), ensure_ascii=False, indent=1) + "\n"
    return write_atomic(folder / "report" / name, text)

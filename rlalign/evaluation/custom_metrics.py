"""Metrics of the user's own in an evaluation: those per completion among its metrics, the others in its report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlalign.evaluation.evaluate import RESERVED, Evaluation
from rlalign.evaluation.text_metrics import Report
from rlalign.log.custom_metrics import PREFIX, CustomMetrics
from rlalign.rollout.views import Samples, frozen


def evaluated_samples(evaluation: Evaluation) -> Samples:
    """Return the P · k samples of an evaluation as copies."""
    samples = len(evaluation.completions[0]) if evaluation.completions else 1
    columns = evaluation.columns or [{} for _ in evaluation.prompts]
    names = [name for name in evaluation.metrics if name not in RESERVED and not name.startswith(PREFIX)]
    return Samples(
        prompts=[prompt for prompt in evaluation.prompts for _ in range(samples)],
        completions=[text for texts in evaluation.completions for text in texts],
        messages=[[dict(m) for m in trajectory] for group in evaluation.messages for trajectory in group],
        columns=[dict(row) for row in columns for _ in range(samples)],
        rewards=frozen(evaluation.metrics["reward"].ravel()),
        components={name.removeprefix("reward/"): frozen(evaluation.metrics[name].ravel()) for name in names},
        lengths=frozen(evaluation.metrics["length"].ravel().astype(np.int64)),
        truncated=frozen(evaluation.metrics["truncated"].ravel() > 0),
        group_ids=frozen(np.arange(len(evaluation.prompts)).repeat(samples)),
    )


def with_custom_metrics(evaluation: Evaluation, metrics: CustomMetrics) -> Evaluation:
    """Return an evaluation with the metrics of the user's own.

    Args:
        evaluation: of P prompts with k completions each.
        metrics: one value per completion becomes a metric [P, k], one for all completions a figure of the report.
    """
    if not metrics:
        return evaluation
    shape = evaluation.metrics["reward"].shape
    own = dict(evaluation.metrics)
    figures: dict[str, float] = {}
    for key, value in metrics.measure(evaluated_samples(evaluation)).items():
        if isinstance(value, float):
            figures[key] = value
        else:
            own[key] = value.reshape(shape)
    return replace(evaluation, metrics=own, report=evaluation.report | Report(figures))

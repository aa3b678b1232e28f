"""Importance weights of logged rewards: the completions are of another policy than the one that is trained."""

from __future__ import annotations

from dataclasses import replace

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.recorded.read import RecordedData


def with_importance_weights(config: TrainConfig, data: RecordedData) -> tuple[TrainConfig, str]:
    r"""Return the configuration for logged rewards, and a sentence about their importance weights.

    With recorded log-probs a policy gradient without a ratio gets the weight of each completion,

    .. math:: w(y) = \min\left(\prod_t \frac{\pi(y_t)}{\mu(y_t)}, c\right), \quad c = \text{off\_policy.high}

    as in Precup et al. 2000; it is unbiased without the cap c. A ratio uses the recorded log-probs as its denominator.
    Without log-probs there is no weight: the estimate is of the data's distribution, not of the policy's.

    Args:
        config: of the run.
        data: of the kind "rewards".

    Raises:
        UserError: a KL in the reward together with a ratio and recorded log-probs, whose KL would be that of mu; or
            settings that read recorded log-probs, which the data does not have.
    """
    objective = config.objective
    if not data.has_logprobs:
        return config, _without_logprobs(config, data)
    learner = replace(config.learner, old_logprobs="sampler")
    if objective.ratio != "none":
        if objective.kl.where == "reward":
            raise UserError(
                "logged rewards with log-probs: expected the KL in the loss or none, because the ratio's denominator "
                "is the recorded policy, got objective.kl.where reward; use --objective.kl.where loss, or "
                "--objective.kl.coef 0"
            )
        return replace(config, learner=learner), "importance weights: the ratio's denominator is the recorded policy"
    if objective.off_policy.kind == "none":
        weights = replace(objective.off_policy, kind="tis", level="sequence")
        objective = replace(objective, off_policy=weights)
    spec = objective.off_policy
    cap = f", at most {spec.high:g} (--objective.off_policy.high)" if spec.kind in ("tis", "mis") else ""
    return (
        replace(config, objective=objective),
        f"importance weights: pi / recorded policy of each {spec.level}{cap}",
    )


def _without_logprobs(config: TrainConfig, data: RecordedData) -> str:
    """Return the sentence for data without log-probs. Raises UserError if a setting reads them."""
    rows = [row for group in data.train for row in group]
    missing = sum(row.logprobs is None for row in rows)
    reason = "the data has no column 'logprobs'"
    if missing < len(rows):
        reason = f"{missing} of {len(rows)} rows have no 'logprobs'"
    objective, old = config.objective, config.learner.old_logprobs
    for reads, setting, fix in (
        (objective.off_policy.kind != "none", f"objective.off_policy.kind {objective.off_policy.kind}",
         "--objective.off_policy.kind none"),
        (objective.ratio != "none" and old == "sampler", f"learner.old_logprobs {old}", "--learner.old-logprobs auto"),
    ):  # fmt: skip
        if reads:
            raise UserError(
                f"logged rewards: {setting} reads the log-probs of the recorded policy, and {reason}; record them, or "
                f"use {fix}"
            )
    return f"importance weights: none, because {reason}; the gradient is that of the recorded completions"

"""The keys of metrics.jsonl that runs on recorded data have."""

from __future__ import annotations

from collections.abc import Mapping

from rlalign.log.metric_row import Metric

_DATA = "runs on recorded data"
_PREFERENCES = "objective.loss dpo, ipo, simpo or kto"
_HELD_OUT = "runs on recorded data with held-out rows, steps that evaluation.every divides"
_HELD_OUT_PREFERENCES = f"pairs and labels: {_HELD_OUT}"

RECORDED: Mapping[str, tuple[Metric, ...]] = {
    "preference": (
        Metric(
            "preference/accuracy",
            "share of the step's pairs whose chosen completion has the larger implicit reward, before the update; a "
            "margin of 0 counts as one half (trl:dpo: as 0). For kto the share of completions whose implicit reward is "
            "on the right side of beta · reference_point",
            f"{_PREFERENCES}, except trl:kto",
        ),
        Metric(
            "preference/margin",
            "implicit reward of the chosen completion minus that of the other, mean",
            f"{_PREFERENCES}, except kto",
        ),
        Metric(
            "preference/chosen_reward",
            "implicit reward of the chosen or desirable completions, mean: beta · log pi/ref of a completion; ipo: beta"
            " · its mean over tokens (trl:dpo: the sum); simpo: preference.scale · the mean of log pi over tokens",
            _PREFERENCES,
        ),
        Metric(
            "preference/rejected_reward",
            "the same of the rejected or undesirable completions",
            _PREFERENCES,
        ),
        Metric(
            "preference/chosen_logprob",
            "log-prob of a chosen or desirable completion, nats, mean",
            _PREFERENCES,
        ),
        Metric(
            "preference/rejected_logprob",
            "log-prob of a rejected or undesirable completion, nats, mean",
            _PREFERENCES,
        ),
        Metric(
            "preference/reference_point",
            "z0 of kto: estimate of the KL to the reference from mismatched completions, nats per completion, at least "
            "0",
            "objective.loss kto",
        ),
    ),
    "data": (Metric("data/passes", "passes over the training data after the step", _DATA),),
    "held_out": (
        Metric(
            "held_out/accuracy",
            "share of the held-out pairs whose chosen completion has the larger implicit reward, after the step; a "
            "margin of 0 counts as one half. For labels the share whose implicit reward has the sign of the label",
            _HELD_OUT_PREFERENCES,
        ),
        Metric(
            "held_out/margin",
            "implicit reward of the chosen completion minus that of the other, mean over held-out pairs; for labels "
            "the implicit reward, negated if undesirable",
            _HELD_OUT_PREFERENCES,
        ),
        Metric(
            "held_out/loss", "-log sigmoid of the margin, mean over held-out pairs or labels", _HELD_OUT_PREFERENCES
        ),
        Metric(
            "held_out/nll",
            "-log pi per token, mean over the held-out completions to imitate: demonstrations, and the chosen or "
            "desirable ones of pairs and labels; nats",
            _HELD_OUT,
        ),
    ),
}
"""Stage -> rows."""

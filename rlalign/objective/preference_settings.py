"""The settings of the preference losses, and the axes without meaning for them.

Part of the specification: nothing here computes, and torch is not imported. `preference.py` has the losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlalign.typecheck import check_range


@dataclass(frozen=True)
class Preference:
    """The settings of the preference losses: dpo, ipo, kto and simpo."""

    label_smoothing: float = 0.0
    """dpo and simpo: assumed share of labels that are flipped, in [0, 0.5) (conservative DPO); 0: none."""
    length_normalized: bool = True
    """ipo: log-ratios are means over the tokens of a completion; false: sums, as in the equation of the paper."""
    scale: float = 2.0
    """simpo: factor of the mean log-prob per token, above 0; beta in the paper."""
    margin: float = 1.0
    """simpo: target margin between the rewards of a pair, 0 or more; gamma in the paper."""
    desirable_weight: float = 1.0
    """kto: factor of the loss of desirable completions, 0 or more. With unequal numbers of labels the paper sets the
    weights so that weight · number of desirable completions is 1 to 4/3 times that of undesirable ones."""
    undesirable_weight: float = 1.0
    """kto: factor of the loss of undesirable completions, 0 or more."""


READS: Mapping[str, tuple[str, ...]] = {
    "dpo": ("label_smoothing",),
    "ipo": ("length_normalized",),
    "kto": ("desirable_weight", "undesirable_weight"),
    "simpo": ("label_smoothing", "scale", "margin"),
}
"""Preference loss -> the settings of `Preference` that it reads."""

REFERENCE_FREE = ("simpo",)
"""The preference losses that need no reference policy."""

_NO_ADVANTAGE = "a preference loss reads labels and computes no advantage"
_NO_RATIO = "recorded completions have no old policy that a ratio could compare with"
_NO_MEANING: Mapping[str, str] = {
    "baseline": _NO_ADVANTAGE,
    "scale": _NO_ADVANTAGE,
    "credit": _NO_ADVANTAGE,
    "ema_decay": _NO_ADVANTAGE,
    "scale_eps": _NO_ADVANTAGE,
    "ratio": _NO_RATIO,
    "trust": _NO_RATIO,
    "off_policy": _NO_RATIO,
    "value": "no value enters a preference loss",
    "filter": "each pair or labeled completion enters the loss as it was recorded",
    "regularizer": "the terms are means over tokens, and a preference loss is a mean over pairs or completions",
    "aggregation": "the loss of a pair or completion is one number, not a sum over tokens",
    "advantage": "the loss has no advantages",
    "kl": "beta multiplies the log-ratio of the whole completion and is constant",
}
"""Axis -> the reason why a preference loss does not read it. Losses with a reference read kl.where and kl.coef."""


def refusals(axes: Mapping[str, Any], defaults: Mapping[str, Any], group_size: int | None) -> Iterator[str]:
    """Yield a message for each setting that contradicts the loss.

    Args:
        axes: dotted axis -> value of the objective.
        defaults: the same of `Objective()`.
        group_size: rows per group; None leaves out the checks that depend on it.
    """
    loss = axes["loss"]
    is_read = {f"preference.{name}" for name in READS.get(loss, ())}
    changed = [axis for axis in axes if axes[axis] != defaults[axis] and axis not in is_read]
    if loss not in READS:
        for axis in changed:
            if axis.startswith("preference."):
                readers = ", ".join(name for name in READS if axis.removeprefix("preference.") in READS[name])
                yield f"objective.{axis} is read by loss {readers} alone, got loss {loss}; use --objective.loss"
        return
    if loss not in REFERENCE_FREE:
        if axes["kl.where"] != "reward" or not axes["kl.coef"] > 0:
            yield (
                f"loss {loss} has the implicit reward kl.coef · log pi/ref: expected kl.where reward with kl.coef "
                f"above 0, got kl.where {axes['kl.where']} with kl.coef {axes['kl.coef']:g}; use "
                "--objective.kl.where reward --objective.kl.coef 0.1"
            )
        changed = [axis for axis in changed if axis not in ("kl.where", "kl.coef")]
    for axis in changed:
        if axis.startswith("preference."):
            yield f"objective.{axis} is not read by loss {loss}; use {defaults[axis]}"
        elif axis.split(".")[0] in _NO_MEANING:
            reason = _NO_MEANING[axis.split(".")[0]]
            if axis.startswith("kl.") and loss in REFERENCE_FREE:
                reason = "the loss has no reference policy"
            yield (
                f"objective.{axis} {axes[axis]} has no meaning for loss {loss}: {reason}; use {defaults[axis]}, or "
                "--objective.loss surrogate"
            )
    if loss != "kto" and group_size not in (None, 2):
        yield (
            f"loss {loss} compares the two completions of a pair: expected group_size 2, got {group_size}; use "
            "--rollout.group-size 2"
        )


def check_ranges(preference: Preference) -> None:
    """Raise UserError for a number outside its interval."""
    p = preference
    check_range(
        "objective.preference.label_smoothing",
        p.label_smoothing,
        least=0,
        below=0.5,
        fix="use less than one half: at one half the labels say nothing",
    )
    check_range("objective.preference.scale", p.scale, above=0)
    check_range("objective.preference.margin", p.margin, least=0)
    check_range("objective.preference.desirable_weight", p.desirable_weight, least=0)
    check_range("objective.preference.undesirable_weight", p.undesirable_weight, least=0)

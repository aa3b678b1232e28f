"""The definition of an algorithm, the registry of presets, and the look-up of a name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from rlalign.errors import UnknownNameError, UserError
from rlalign.objective.spec import Objective
from rlalign.registry import Registry
from rlalign.typecheck import flatten


@dataclass(frozen=True)
class Algorithm:
    """A named objective, with the settings of its paper.

    Attributes:
        name: as on the command line.
        objective: its point on the axes.
        paper: first author and year.
        arxiv: id, or "" for older papers.
        description: one paragraph.
        bias: relation of its expected on-policy gradient to the gradient of the expected reward; for recorded data the
            optimum of its loss.
        group_size: samples of each prompt, G, in the paper, or a modest number.
        epochs: passes over each rollout.
        minibatches: optimizer steps in each pass.
        old_logprobs: denominator of the ratio, see `LearnerConfig.old_logprobs`.
        data: the recorded data that it learns from: demonstrations (completions to imitate), pairs (a chosen and a
            rejected completion), or labels (desirable or undesirable completions). Empty: it samples its own
            completions.
        teacher: how it learns from a teacher. scores: the teacher is the reference policy of the KL on the policy's own
            samples; samples: it imitates completions that the teacher samples. Empty: without a teacher.
    """

    name: str
    objective: Objective
    paper: str
    arxiv: str
    description: str
    bias: str
    group_size: int = 8
    epochs: int = 1
    minibatches: int = 1
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    data: Literal["", "demonstrations", "pairs", "labels"] = ""
    teacher: Literal["", "scores", "samples"] = ""


ALGORITHMS: Registry[Algorithm] = Registry("algorithm", group="rlalign.algorithms")


def register_algorithm(item: Algorithm) -> Algorithm:
    """Add an algorithm to the registry and return it.

    An algorithm of the same name is replaced. The name is then valid for `rlalign train --algorithm`, `rlalign.train`
    and `rlalign oracle` in this process.

    Args:
        item: the algorithm.

    Raises:
        UserError: its objective is invalid.
    """
    item.objective.validate(group_size=item.group_size)
    return ALGORITHMS.add(item.name, item)


OUTSIDE = {"trl:grpo": "grpo", "trl:rloo": "rloo"}
"""Name of another library's trainer -> the preset at the same point on the axes."""

OFFLINE = {"trl:sft": "sft", "trl:dpo": "dpo", "trl:kto": "kto"}
"""Name of another library's trainer on recorded data -> the preset with the same loss."""

OFFLINE_AXES = {
    "trl:sft": "",
    "trl:dpo": "kl.coef loss",
    "trl:kto": "kl.coef preference.desirable_weight preference.undesirable_weight",
}
"""Trainer of TRL on recorded data -> the axes that it reads."""

BEST_OF_N = "best_of_n"
UNTRAINED = {
    BEST_OF_N: Algorithm(
        BEST_OF_N,
        Objective(),
        "Nakano et al. 2021",
        "2112.09332",
        "Draws evaluation.best_of completions of the base policy per prompt and keeps the one with the highest reward.",
        "No gradient: the weights stay those of the base policy, and each answer costs n samples.",
    )
}
"""Name -> a competitor that trains nothing."""


def algorithm(name: str) -> Algorithm:
    """Return the algorithm of a name, or of a `module:attr` or `file.py:attr`.

    Args:
        name: a preset, a registered name, or the path of an Algorithm or Objective. `trl:grpo`, `trl:dpo` and the
            other trainers of TRL return the presets grpo, dpo, ... under that name.

    Raises:
        UnknownNameError: the name is not registered; the message suggests the nearest.
        UserError: the object is neither an Algorithm nor an Objective.

    Example:
        >>> grpo = algorithm("grpo")
        >>> grpo.arxiv, grpo.group_size
        ('2402.03300', 8)
        >>> grpo.objective.baseline, grpo.objective.scale, grpo.objective.aggregation
        ('group_mean', 'group_std', 'sequence_mean')
    """
    if name in UNTRAINED:
        return UNTRAINED[name]
    preset_of = OUTSIDE | OFFLINE
    if name in preset_of:
        return dataclasses.replace(ALGORITHMS.get(preset_of[name]), name=name)
    if name.startswith("trl:"):
        raise UnknownNameError("algorithm", name, list(preset_of))
    item: Any = ALGORITHMS.get(name)
    if isinstance(item, Objective):
        return Algorithm(name, item, "", "", "A custom objective.", "")
    if not isinstance(item, Algorithm):
        raise UserError(f"'{name}': expected an Algorithm or an Objective, got a {type(item).__name__}")
    return item


def learns_from_data(name: str) -> bool:
    """Return whether an algorithm learns from recorded data if it is given: a preset of ours from logged rewards too.

    TRL's trainers on samples and best_of_n never read it.
    """
    return name not in OUTSIDE and name not in UNTRAINED


def sampling_presets() -> list[str]:
    """Return the names of the registered algorithms that sample their own completions and need no teacher."""
    return [name for name in ALGORITHMS if not (algorithm(name).data or algorithm(name).teacher)]


def recorded_presets() -> list[str]:
    """Return the names of the registered algorithms that learn from recorded data."""
    return [name for name in ALGORITHMS if algorithm(name).data]


def teacher_presets() -> list[str]:
    """Return the names of the registered algorithms that learn from a teacher."""
    return [name for name in ALGORITHMS if algorithm(name).teacher]


def axes(objective: Objective) -> dict[str, Any]:
    """Return dotted axis -> value, such as `trust.high` -> 0.2.

    Args:
        objective: any objective.
    """
    return flatten(dataclasses.asdict(objective))


def diff(a: Objective, b: Objective) -> dict[str, tuple[Any, Any]]:
    """Return dotted axis -> (value in a, value in b) of the axes that differ.

    Args:
        a: an objective.
        b: another one.

    Example:
        >>> for axis, values in diff(algorithm("grpo").objective, algorithm("dr_grpo").objective).items():
        ...     print(axis, *values)
        scale group_std none
        aggregation sequence_mean constant
        kl.where loss none
        kl.coef 0.04 0.05
        kl.estimator k3 k1
    """
    left, right = axes(a), axes(b)
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}

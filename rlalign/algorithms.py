"""Published algorithms as rows of data: where each stands on the axes, and what its expected gradient is.

A preset says only where it differs from the plain policy gradient. Its `bias` is what `rlalign oracle` computes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rlalign.errors import UserError
from rlalign.objective.spec import KL, Credit, Data, Objective, Trust, Value
from rlalign.registry import Registry


@dataclass(frozen=True)
class Algorithm:
    """A named objective.

    Attributes:
        name: as on the command line.
        objective: its point on the axes.
        paper: first author and year.
        arxiv: id, or "" for what is older.
        description: one paragraph.
        bias: how its expected gradient, on policy, relates to that of the expected reward.
        group_size: samples of each prompt that it was published with, or a modest number.
        epochs: passes over each rollout.
        minibatches: optimizer steps in each pass.
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


ALGORITHMS: Registry[Algorithm] = Registry("algorithm", group="rlalign.algorithms")


def register_algorithm(item: Algorithm) -> Algorithm:
    """Add an algorithm to the registry. Raises UserError when its objective is impossible."""
    item.objective.validate(group_size=item.group_size)
    return ALGORITHMS.add(item.name, item)


def algorithm(name: str) -> Algorithm:
    """The algorithm of a name, or of a `module:attr` or `file.py:attr`. Raises UnknownNameError with a suggestion."""
    found: Any = ALGORITHMS.get(name)
    if isinstance(found, Objective):
        return Algorithm(name, found, "", "", "An objective of your own.", "")
    if not isinstance(found, Algorithm):
        raise UserError(f"'{name}' is a {type(found).__name__}: an algorithm is an Algorithm or an Objective")
    return found


def axes(objective: Objective) -> dict[str, Any]:
    """Dotted axis -> value."""

    def flat(data: dict[str, Any], prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in data.items():
            out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return out

    return flat(dataclasses.asdict(objective), "")


def diff(a: Objective, b: Objective) -> dict[str, tuple[Any, Any]]:
    """Dotted axis -> (value in a, value in b), the axes that differ only."""
    left, right = axes(a), axes(b)
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}


_CLIP = Trust("clip", 0.2, 0.2)
_CLIP_HIGHER = Trust("clip", 0.2, 0.28)
_GROUP: dict[str, Any] = {"baseline": "group_mean", "scale": "group_std", "ratio": "token"}

for _item in (
    Algorithm(
        "reinforce",
        Objective(baseline="ema", credit=Credit("reward_to_go"), kl=KL("reward", 0.03)),
        "Williams 1992",
        "",
        "The policy gradient with a moving-average baseline: theta += alpha · grad log p(a|s) · (r - b).",
        "Exact.",
    ),
    Algorithm(
        "remax",
        Objective(baseline="greedy", kl=KL("reward", 0.03)),
        "Li 2023",
        "2310.10505",
        "REINFORCE whose baseline is the reward of one greedy completion of the same prompt.",
        "Exact.",
        group_size=1,
    ),
    Algorithm(
        "rloo",
        Objective(baseline="leave_one_out", kl=KL("reward", 0.03)),
        "Ahmadian 2024",
        "2402.14740",
        "REINFORCE whose baseline is the mean reward of the other samples of the prompt; KL in the reward.",
        "Exact.",
    ),
    Algorithm(
        "grpo",
        Objective(**_GROUP, trust=_CLIP, aggregation="sequence_mean", kl=KL("loss", 0.04, "k3")),
        "Shao 2024",
        "2402.03300",
        "PPO's clipped ratio without a critic: rewards are standardised within the group, each completion's token losses are "
        "averaged, and k3 in the loss keeps the policy near the reference.",
        "",
    ),
    Algorithm(
        "ppo",
        Objective(
            baseline="value",
            scale="whiten",
            credit=Credit("gae", bootstrap=False),
            ratio="token",
            trust=_CLIP,
            aggregation="token_global",
            kl=KL("reward", 0.05, target=6.0),
            value=Value("head", clip=0.2),
        ),
        "Schulman 2017",
        "1707.06347",
        "Clipped token ratios, advantages from a learned value by GAE and whitened over the batch, several passes over each "
        "rollout; the KL in the reward is steered to a target as in 1909.08593.",
        "",
        epochs=4,
    ),
):
    register_algorithm(_item)

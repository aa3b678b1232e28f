"""Settings that TRL supports, and the error for the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rlalign.config.schema import ContinualConfig, TrainConfig
from rlalign.errors import UserError


class Requirement(NamedTuple):
    """A setting, its value, and the values that TRL supports."""

    setting: str
    value: Any
    supported: bool
    expected: str


def check_requirements(requirements: Sequence[Requirement], config: TrainConfig, fix: str) -> None:
    """Raise UserError for the first setting whose value TRL does not support.

    Args:
        requirements: in the order in which they are named.
        config: names the algorithm.
        fix: what to do about it.
    """
    for setting, value, supported, expected in requirements:
        if not supported:
            raise UserError(f"{setting}: expected {expected} for {config.algorithm}, got {value}; {fix}")


def common_requirements(config: TrainConfig) -> list[Requirement]:
    """Return the requirements of each trainer of TRL, on samples or on recorded data."""
    evaluation, interval = config.evaluation, config.supervised.align_interval
    return [
        # TRL computes advantages from the weighted sum of the components
        Requirement("rollout.per_component", config.rollout.per_component, not config.rollout.per_component, "False"),
        # TRL trains to the last step
        Requirement("evaluation.patience", evaluation.patience, evaluation.patience <= 0, "0"),
        Requirement("evaluation.stop_kl", evaluation.stop_kl, evaluation.stop_kl <= 0, "0"),
        Requirement("continual", config.continual, config.continual == ContinualConfig(), "its defaults"),
        Requirement("supervised.align_interval", interval, interval <= 0, "0 (no supervised updates)"),
    ]


def common_arguments(config: TrainConfig, *, cpu: bool, bf16: bool) -> dict[str, Any]:
    """Return the arguments that each trainer of TRL gets.

    Args:
        config: the configuration.
        cpu: train on the CPU.
        bf16: compute in bfloat16.
    """
    return {
        "learning_rate": config.learner.lr,
        "max_grad_norm": config.learner.max_grad_norm,
        "gradient_checkpointing": False,
        "seed": config.seed,
        "bf16": bf16,
        "use_cpu": cpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def one_of(names: Iterable[str]) -> str:
    """Return names as `a, b or c`."""
    *others, last = sorted(names)
    return f"{', '.join(others)} or {last}"

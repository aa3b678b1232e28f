"""Translation of a training configuration into the arguments of TRL's trainers on recorded data: SFT, DPO and KTO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlalign.algorithms import OFFLINE, OFFLINE_AXES, algorithm, axes
from rlalign.config.schema import TrainConfig
from rlalign.integrations.trl.requirements import (
    Requirement,
    check_requirements,
    common_arguments,
    common_requirements,
    one_of,
)

_DPO_LOSSES = {"dpo": "sigmoid", "ipo": "ipo"}
"""Loss -> TRL's loss_type."""


def offline_arguments(config: TrainConfig, *, cpu: bool, bf16: bool) -> dict[str, Any]:
    """Return the keyword arguments of TRL's SFTConfig, DPOConfig or KTOConfig.

    A step is one update on `rollout.prompts` rows or pairs. TRL counts in these, `learner.micro_batch` in completions.

    Args:
        config: with an algorithm of `rlalign.algorithms.OFFLINE`.
        cpu: train on the CPU.
        bf16: compute in bfloat16.

    Raises:
        UserError: for a setting that the trainer does not read.
    """
    preset = OFFLINE[config.algorithm]
    fix = f"change it, or use rlalign's own trainer: --algorithm {preset}"
    check_requirements([*common_requirements(config), *_requirements(config)], config, fix)
    rows = config.rollout.prompts
    micro = config.learner.micro_batch // algorithm(preset).group_size or rows
    arguments = common_arguments(config, cpu=cpu, bf16=bf16) | {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": rows // micro,
        "max_steps": config.steps,
        "max_length": None,  # TRL cuts longer sequences; `rlalign.recorded` refuses those that the model cannot read
    }
    o = config.objective
    if preset == "sft":
        # the rows have ids and labels already
        return arguments | {"loss_type": "nll", "packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    if preset == "dpo":
        return arguments | {
            "beta": o.kl.coef,
            "loss_type": [_DPO_LOSSES[o.loss]],
            # The reference policy is the initial one: its log-probs are computed once, before the first step.
            "precompute_ref_log_probs": True,
            "precompute_ref_batch_size": micro,
        }
    return arguments | {
        "beta": o.kl.coef,
        "loss_type": "kto",
        "desirable_weight": o.preference.desirable_weight,
        "undesirable_weight": o.preference.undesirable_weight,
    }


def _requirements(config: TrainConfig) -> Iterator[Requirement]:
    r, ln, o = config.rollout, config.learner, config.objective
    preset = algorithm(config.algorithm)
    if OFFLINE[config.algorithm] == "dpo":
        yield Requirement("objective.loss", o.loss, o.loss in _DPO_LOSSES, one_of(_DPO_LOSSES))
    free = OFFLINE_AXES[config.algorithm].split()
    expected = axes(preset.objective)
    for axis, value in axes(o).items():
        yield Requirement(f"objective.{axis}", value, axis in free or value == expected[axis], str(expected[axis]))
    if "kl.coef" in free:
        yield Requirement("objective.kl.coef", o.kl.coef, o.kl.coef > 0, "a beta above 0")
    size = preset.group_size
    unit = {"demonstrations": "a row", "labels": "a row", "pairs": "a pair"}[preset.data]
    yield Requirement("rollout.group_size", r.group_size, r.group_size == size, f"{size} ({unit})")
    yield Requirement("learner.epochs", ln.epochs, ln.epochs == 1, "1 (more steps read the data again)")
    yield Requirement("learner.minibatches", ln.minibatches, ln.minibatches == 1, "1")
    if OFFLINE[config.algorithm] == "kto":
        yield Requirement("rollout.prompts", r.prompts, r.prompts > 1, "at least 2, for the reference point,")
    yield _micro_batch(config, size)


def _micro_batch(config: TrainConfig, size: int) -> Requirement:
    micro, rows = config.learner.micro_batch, config.rollout.prompts
    if OFFLINE[config.algorithm] == "kto":
        # TRL estimates the reference point in each micro-batch, rlalign once per step
        expected = f"0 or {rows}, the rows of a step, whose mean is the reference point"
        return Requirement("learner.micro_batch", micro, micro in (0, rows), expected)
    fits = micro % size == 0 and (not micro or rows % (micro // size) == 0)
    divisor = f"a divisor of the {rows} rows of a step"
    expected = divisor if size == 1 else f"twice a divisor of the {rows} pairs of a step"
    return Requirement("learner.micro_batch", micro, fits, expected)

"""Translation of a training configuration into TRL's DPOConfig, and the settings that DPO does not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlalign.algorithms import algorithm, axes
from rlalign.config.schema import TrainConfig
from rlalign.integrations.trl.requirements import Requirement, check_requirements

_FREE = ("kl.coef", "kl.where")
"""Axes that may differ from those of trl:dpo: beta, and the place of the KL, which a beta of 0 changes to none."""


def dpo_arguments(config: TrainConfig, *, cpu: bool, bf16: bool) -> dict[str, Any]:
    """Return the keyword arguments of TRL's DPOConfig.

    A step is one update on `rollout.prompts` pairs. TRL counts in pairs, `learner.micro_batch` in completions.

    Args:
        config: the configuration.
        cpu: train on the CPU.
        bf16: compute in bfloat16.

    Raises:
        UserError: for a setting that DPO does not read, or without data.
    """
    fix = "change it, or leave it out"
    check_requirements(list(_requirements(config)), config, fix)
    pairs = config.rollout.prompts
    micro = config.learner.micro_batch // 2 or pairs
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": pairs // micro,
        "max_steps": config.steps,
        "learning_rate": config.learner.lr,
        "max_grad_norm": config.learner.max_grad_norm,
        "beta": config.objective.kl.coef,
        "loss_type": ["sigmoid"],
        "max_length": None,  # TRL cuts longer sequences; `pairs` refuses those that the model cannot read
        # The reference policy is the initial one: its log-probs are computed once, and no copy is held for them.
        "precompute_ref_log_probs": True,
        "precompute_ref_batch_size": micro,
        "gradient_checkpointing": False,
        "seed": config.seed,
        "bf16": bf16,
        "use_cpu": cpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _requirements(config: TrainConfig) -> Iterator[Requirement]:
    r, ln, o = config.rollout, config.learner, config.objective
    interval = config.supervised.align_interval
    yield Requirement("data", config.data, bool(config.data), "preference data, such as --data prefs.jsonl,")
    preset = axes(algorithm(config.algorithm).objective)
    for axis, value in axes(o).items():
        # DPO has neither advantages nor samples: beta is all that it shares with the axes
        yield Requirement(f"objective.{axis}", value, axis in _FREE or value == preset[axis], str(preset[axis]))
    yield Requirement("objective.kl.where", o.kl.where, o.kl.where in ("none", "reward"), "reward")
    beta = 0.0 if o.kl.where == "none" else o.kl.coef
    yield Requirement("objective.kl.coef", beta, beta > 0, "a beta above 0")
    yield Requirement("rollout.group_size", r.group_size, r.group_size == 2, "2 (a pair)")
    yield Requirement("rollout.per_component", r.per_component, not r.per_component, "False")
    yield Requirement("learner.epochs", ln.epochs, ln.epochs == 1, "1 (more steps read the data again)")
    yield Requirement("learner.minibatches", ln.minibatches, ln.minibatches == 1, "1")
    micro = ln.micro_batch
    fits = micro % 2 == 0 and (not micro or r.prompts % (micro // 2) == 0)
    yield Requirement("learner.micro_batch", micro, fits, f"twice a divisor of the {r.prompts} pairs of a step")
    # TRL trains to the last step
    yield Requirement("evaluation.patience", config.evaluation.patience, config.evaluation.patience <= 0, "0")
    yield Requirement("supervised.align_interval", interval, interval <= 0, "0 (no supervised updates)")

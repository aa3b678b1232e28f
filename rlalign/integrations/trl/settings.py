"""Translation of a training configuration into TRL's arguments, and the settings that TRL does not support."""

from __future__ import annotations

from typing import Any

from rlalign.algorithms import OFFLINE, OUTSIDE
from rlalign.config.instantiate import check_policy
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.stream import task_stream
from rlalign.errors import UnknownNameError, UserError
from rlalign.integrations.trl.bridge import require_single_turn
from rlalign.integrations.trl.offline_settings import offline_arguments
from rlalign.integrations.trl.requirements import (
    Requirement,
    check_requirements,
    common_arguments,
    common_requirements,
    one_of,
)
from rlalign.objective.spec import Objective, OffPolicy
from rlalign.policies.factory import policy_kind
from rlalign.training.experiment import build_checked_mdp

# Value of an axis -> TRL's value.
_LOSS_TYPE = {"sequence_mean": "grpo", "constant": "dr_grpo", "token_global": "dapo", "sequence_sum": "luspo"}
_SCALE_REWARDS = {"none": "none", "group_std": "group", "batch_std": "batch"}
_RATIO_LEVEL = {"token": "token", "sequence_geomean": "sequence"}
_TRUST_KINDS = ("clip", "dual_clip", "soft_gate", "stopgrad_cap")


def check_run(config: TrainConfig) -> None:
    """Raise UserError where a run by TRL would, before any weight is loaded or file written."""
    mdp = build_checked_mdp(config)
    check_trl(config, mdp)
    check_policy(config, mdp)


def check_trl(config: TrainConfig, mdp: TextMDP) -> None:
    """Raise UserError for an environment, a policy or a setting that TRL does not support."""
    require_single_turn(mdp)
    if task_stream(mdp, options=config.tasks).reads_results:
        raise UserError(
            f"tasks.order {config.tasks.order}: expected shuffled or sequential for {config.algorithm}, whose trainer "
            "takes all prompts before the first step; use --tasks.order shuffled, or rlalign's own trainer"
        )
    if policy_kind(config.policy) in ("gru", "tabular"):
        raise UserError(not_transformers(config))
    adapter = config.model.adapter
    if adapter.is_virtual or adapter.kind == "adalora":
        raise UserError(
            f"adapter.kind {adapter.kind}: expected an adapter that {config.algorithm} trains, got one whose ranks or "
            "virtual tokens TRL's trainers do not know; use --model.adapter.kind lora, or an algorithm of rlalign"
        )
    if config.algorithm in OFFLINE:
        offline_arguments(config, cpu=True, bf16=False)
        return
    trl_arguments(config, max_new=mdp.max_new, cpu=True, bf16=False)


def not_transformers(config: TrainConfig) -> str:
    """Return the error message for a policy that is not a transformers model."""
    return (
        f"policy: expected a transformers model for {config.algorithm}, got '{config.policy}'; "
        "use --policy tiny, smollm2 or a model folder"
    )


def trl_arguments(config: TrainConfig, *, max_new: int, cpu: bool, bf16: bool) -> dict[str, Any]:
    """Return the keyword arguments of TRL's GRPOConfig (algorithm trl:grpo) or RLOOConfig (trl:rloo).

    A step is one rollout of prompts × group_size samples, used for `epochs` × `minibatches` optimizer steps. TRL
    counts in micro-batches: `steps_per_generation` per rollout, `gradient_accumulation_steps` per optimizer step.

    Args:
        config: the configuration.
        max_new: largest number of tokens per completion.
        cpu: train on the CPU.
        bf16: compute in bfloat16.

    Raises:
        UserError: for an unknown trainer, or a setting that TRL does not support.
    """
    o, r, ln = config.objective, config.rollout, config.learner
    if config.algorithm not in OUTSIDE:
        raise UnknownNameError("TRL trainer", config.algorithm, [*OUTSIDE, *OFFLINE])
    grpo = config.algorithm == "trl:grpo"
    check_requirements(
        [
            *common_requirements(config),
            *_rollout_requirements(config),
            *(_grpo_requirements(o) if grpo else _rloo_requirements(o)),
        ],
        config,
        f"change it, or use rlalign's own trainer: --algorithm {OUTSIDE[config.algorithm]}",
    )
    samples = config.samples_per_step
    update = samples // ln.minibatches
    micro = ln.micro_batch or update
    arguments = common_arguments(config, cpu=cpu, bf16=bf16) | {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": update // micro,
        "steps_per_generation": samples // micro,
        "num_iterations": ln.epochs,
        "num_generations": r.group_size,
        "max_steps": config.steps * ln.epochs * ln.minibatches,
        "max_completion_length": max_new,
        "temperature": r.temperature,
        "top_k": r.top_k,
        "top_p": r.top_p,
        "beta": 0.0 if o.kl.where == "none" else o.kl.coef,
        "shuffle_dataset": False,  # the rows are in the order of rlalign's own trainer
    }
    if grpo:
        return arguments | _grpo_arguments(o)
    return arguments | {"epsilon": o.trust.low, "epsilon_high": o.trust.high}


def _grpo_arguments(o: Objective) -> dict[str, Any]:
    """Return the arguments that only GRPOConfig has."""
    loss_type = {"stopgrad_cap": "cispo", "soft_gate": "sapo"}.get(o.trust.kind, _LOSS_TYPE[o.aggregation])
    arguments = {
        "loss_type": loss_type,
        "scale_rewards": _SCALE_REWARDS[o.scale],
        "importance_sampling_level": _RATIO_LEVEL[o.ratio],
        "epsilon": o.trust.low,
        # TRL's epsilon_high of CISPO is the cap itself; `trust.high` is its distance from 1.
        "epsilon_high": 1.0 + o.trust.high if loss_type == "cispo" else o.trust.high,
        "use_bias_correction_kl": o.kl.importance != "none",
        "entropy_coef": o.regularizer.entropy_coef,
        "sapo_temperature_pos": o.trust.tau_pos,
        "sapo_temperature_neg": o.trust.tau_neg,
    }
    if o.trust.kind == "dual_clip":
        arguments["delta"] = o.trust.dual
    return arguments


# ---- what TRL supports ----


def _rollout_requirements(config: TrainConfig) -> list[Requirement]:
    o, ln = config.objective, config.learner
    minibatch = config.samples_per_step // ln.minibatches
    return [
        Requirement("data", config.data, not config.data, "None (it samples its own completions)"),
        Requirement(
            "learner.micro_batch",
            ln.micro_batch,
            not ln.micro_batch or minibatch % ln.micro_batch == 0,
            f"a divisor of the minibatch's {minibatch} samples",
        ),
        Requirement("rollout.group_size", config.rollout.group_size, config.rollout.group_size >= 2, "at least 2"),
        Requirement("learner.old_logprobs", ln.old_logprobs, ln.old_logprobs != "sampler", "auto or recompute"),
        # TRL gives each token the whole return
        Requirement("objective.credit.kind", o.credit.kind, o.credit.kind == "trajectory", "trajectory"),
        Requirement("objective.value.kind", o.value.kind, o.value.kind == "none", "none (no critic)"),
        # transformers.generate samples from the policy itself
        Requirement("objective.off_policy", o.off_policy, o.off_policy == OffPolicy(), "no correction"),
        # TRL also masks truncated completions, but still counts their tokens in the mean
        Requirement("objective.filter.drop_truncated", o.filter.drop_truncated, not o.filter.drop_truncated, "False"),
        Requirement(
            "objective.filter.dynamic_sampling", o.filter.dynamic_sampling, not o.filter.dynamic_sampling, "False"
        ),
        Requirement("objective.filter.overlong", o.filter.overlong, o.filter.overlong <= 0, "0"),
        Requirement("objective.regularizer.nll_coef", o.regularizer.nll_coef, o.regularizer.nll_coef <= 0, "0"),
        # TRL's beta is a constant
        Requirement("objective.kl.target", o.kl.target, o.kl.target <= 0, "0"),
        Requirement("objective.kl.level", o.kl.level, o.kl.where == "none" or o.kl.level == "token", "token"),
        Requirement("objective.loss", o.loss, o.loss == "surrogate", "surrogate"),
    ]


def _grpo_requirements(o: Objective) -> list[Requirement]:
    # The loss types cispo and sapo have one aggregation each; the others are named after theirs.
    aggregation = {"soft_gate": "sequence_mean", "stopgrad_cap": "token_global"}.get(o.trust.kind, o.aggregation)
    importance = {"token": "token", "sequence_geomean": "geomean"}.get(o.ratio)
    no_kl = o.kl.where == "none"
    return [
        Requirement("objective.baseline", o.baseline, o.baseline == "group_mean", "group_mean"),
        Requirement("objective.scale", o.scale, o.scale in _SCALE_REWARDS, one_of(_SCALE_REWARDS)),
        Requirement("objective.ratio", o.ratio, o.ratio in _RATIO_LEVEL, one_of(_RATIO_LEVEL)),
        Requirement("objective.trust.kind", o.trust.kind, o.trust.kind in _TRUST_KINDS, one_of(_TRUST_KINDS)),
        Requirement(
            "objective.trust.low",
            o.trust.low,
            o.trust.kind != "stopgrad_cap" or o.trust.low >= 1,
            "1 (CISPO has no lower bound)",
        ),
        Requirement(
            "objective.aggregation",
            o.aggregation,
            o.aggregation == aggregation,
            f"{aggregation} with trust {o.trust.kind}",
        ),
        Requirement("objective.kl.where", o.kl.where, o.kl.where in ("none", "loss"), "none or loss"),
        Requirement("objective.kl.estimator", o.kl.estimator, no_kl or o.kl.estimator == "k3", "k3"),
        Requirement(
            "objective.kl.importance",
            o.kl.importance,
            no_kl or o.kl.importance in ("none", importance),
            f"none or {importance}",
        ),
    ]


def _rloo_requirements(o: Objective) -> list[Requirement]:
    # On policy, the clipped product of ratios has the gradient of the loss without a ratio.
    plain = o.ratio == "none" and o.aggregation == "sequence_sum"
    clipped = (o.ratio, o.trust.kind, o.aggregation) == ("sequence_product", "clip", "sequence_mean")
    no_kl = o.kl.where == "none"
    entropy_coef = o.regularizer.entropy_coef
    return [
        Requirement("objective.baseline", o.baseline, o.baseline == "leave_one_out", "leave_one_out"),
        Requirement("objective.scale", o.scale, o.scale == "none", "none"),
        Requirement(
            "objective.ratio",
            f"{o.ratio} with trust {o.trust.kind} and aggregation {o.aggregation}",
            plain or clipped,
            "none with aggregation sequence_sum, or sequence_product with trust clip and aggregation sequence_mean",
        ),
        Requirement("objective.kl.where", o.kl.where, o.kl.where in ("none", "reward"), "none or reward"),
        Requirement("objective.kl.estimator", o.kl.estimator, no_kl or o.kl.estimator == "k1", "k1"),
        Requirement("objective.regularizer.entropy_coef", entropy_coef, entropy_coef <= 0, "0"),
    ]

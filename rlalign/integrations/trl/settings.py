"""A configuration of ours as TRL's arguments: the same point on the axes, or the reason why TRL cannot stand there."""

from __future__ import annotations

from typing import Any

from rlalign.algorithms import OUTSIDE
from rlalign.config.instantiate import check_policy
from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError, did_you_mean
from rlalign.objective.spec import Objective, OffPolicy
from rlalign.policies.factory import policy_kind
from rlalign.training.experiment import build_checked_mdp

_LOSS = {"sequence_mean": "grpo", "constant": "dr_grpo", "token_global": "dapo", "sequence_sum": "luspo"}
_SCALE = {"none": "none", "group_std": "group", "batch_std": "batch"}
_LEVEL = {"token": "token", "sequence_geomean": "sequence"}


def check_run(config: TrainConfig) -> None:
    """Raise UserError where a run by TRL would, before any weight is loaded or file written."""
    mdp = build_checked_mdp(config)
    check_trl(config, mdp)
    check_policy(config, mdp)


def check_trl(config: TrainConfig, mdp: TextMDP) -> None:
    """Refuse what TRL has no counterpart of, before anything is loaded. Raises UserError."""
    if mdp.max_turns > 1:
        raise UserError(f"{mdp.id} has up to {mdp.max_turns} turns, and TRL's loop knows one: use an algorithm of ours")
    if policy_kind(config.policy) in ("gru", "tabular"):
        raise UserError(
            f"policy '{config.policy}' is no transformers model, and {config.algorithm} trains nothing else: "
            "use --policy tiny, smollm2 or a model folder"
        )
    trl_arguments(config, max_new=mdp.max_new, cpu=True, bf16=False)


def trl_arguments(config: TrainConfig, *, max_new: int, cpu: bool, bf16: bool) -> dict[str, Any]:
    """Keyword arguments of GRPOConfig (algorithm trl:grpo) or RLOOConfig (trl:rloo).

    One step is one rollout of prompts × group_size samples, learnt from `epochs` times in `minibatches` optimizer
    steps: `steps_per_generation` forwards of a micro-batch, `gradient_accumulation_steps` of them to an update.

    Raises UserError for a setting that TRL has no counterpart of.
    """
    o, r, ln = config.objective, config.rollout, config.learner
    if config.algorithm not in OUTSIDE:
        raise UserError(
            f"no trainer of TRL '{config.algorithm}'.{did_you_mean(config.algorithm, OUTSIDE)} "
            f"There are: {', '.join(OUTSIDE)}"
        )
    grpo = config.algorithm == "trl:grpo"
    _refuse(config, _of_both(config) | (_of_grpo(o) if grpo else _of_rloo(o)))
    samples = config.samples_per_step
    update = samples // ln.minibatches
    micro = ln.micro_batch or update
    arguments = {
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
        "learning_rate": ln.lr,
        "max_grad_norm": ln.max_grad_norm,
        "beta": 0.0 if o.kl.where == "none" else o.kl.coef,
        "shuffle_dataset": False,
        "gradient_checkpointing": False,
        "seed": config.seed,
        "bf16": bf16,
        "use_cpu": cpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return arguments | (_grpo(o) if grpo else {"epsilon": o.trust.low, "epsilon_high": o.trust.high})


def _grpo(o: Objective) -> dict[str, Any]:
    loss = {"stopgrad_cap": "cispo", "soft_gate": "sapo"}.get(o.trust.kind, _LOSS[o.aggregation])
    arguments = {
        "loss_type": loss,
        "scale_rewards": _SCALE[o.scale],
        "importance_sampling_level": _LEVEL[o.ratio],
        "epsilon": o.trust.low,
        "epsilon_high": 1.0 + o.trust.high if loss == "cispo" else o.trust.high,
        "use_bias_correction_kl": o.kl.importance != "none",
        "entropy_coef": o.regularizer.entropy_coef,
        "sapo_temperature_pos": o.trust.tau_pos,
        "sapo_temperature_neg": o.trust.tau_neg,
    }
    return arguments | ({"delta": o.trust.dual} if o.trust.kind == "dual_clip" else {})


def _of_both(config: TrainConfig) -> dict[str, bool]:
    o, ln = config.objective, config.learner
    update = config.samples_per_step // ln.minibatches
    return {
        "learner.micro_batch: it must divide a minibatch": bool(ln.micro_batch) and update % ln.micro_batch != 0,
        "rollout.group_size: it must be at least 2": config.rollout.group_size < 2,
        "rollout.per_component: the weighted sum is what TRL sees": config.rollout.per_component,
        "evaluation.patience: it trains to the last step": config.evaluation.patience > 0,
        "supervised.align_interval: TRL has no supervised steps in between": config.supervised.align_interval > 0,
        "learner.old_logprobs": ln.old_logprobs == "sampler",
        "objective.credit: TRL gives every token the whole return": o.credit.kind != "trajectory",
        "objective.value: TRL's trainer has no critic": o.value.kind != "none",
        "objective.off_policy: the sampler is the policy itself": o.off_policy != OffPolicy(),
        # TRL masks truncated completions too, but goes on counting their tokens in the mean
        "objective.filter: drop_truncated, dynamic_sampling and overlong, and regularizer.nll_coef are ours": o.filter.drop_truncated
        or o.filter.dynamic_sampling
        or o.filter.overlong > 0
        or o.regularizer.nll_coef > 0,
        "objective.kl.target: beta is fixed in TRL": o.kl.target > 0,
        "objective.kl.level": o.kl.where != "none" and o.kl.level != "token",
        "objective.loss": o.loss != "surrogate",
    }


def _of_grpo(o: Objective) -> dict[str, bool]:
    kinds = {"clip", "dual_clip", "stopgrad_cap", "soft_gate"}
    importance = {"token": "token", "sequence_geomean": "geomean"}.get(o.ratio)
    fits = {"soft_gate": "sequence_mean", "stopgrad_cap": "token_global"}.get(o.trust.kind, o.aggregation)
    return {
        "objective.baseline: it is group_mean": o.baseline != "group_mean",
        f"objective.scale: there are {', '.join(_SCALE)}": o.scale not in _SCALE,
        f"objective.ratio: there are {', '.join(_LEVEL)}": o.ratio not in _LEVEL,
        f"objective.trust: there are {', '.join(sorted(kinds))}": o.trust.kind not in kinds,
        "objective.trust.low: CISPO has no floor, so it is 1": o.trust.kind == "stopgrad_cap" and o.trust.low < 1,
        f"objective.aggregation: with this trust region it is {fits}": o.aggregation != fits,
        "objective.kl: it is k3 in the loss": o.kl.where != "none" and (o.kl.where, o.kl.estimator) != ("loss", "k3"),
        "objective.kl.importance: none, or as the ratio": o.kl.where != "none"
        and o.kl.importance not in ("none", importance),
    }


def _of_rloo(o: Objective) -> dict[str, bool]:
    plain = o.ratio == "none" and o.aggregation == "sequence_sum"
    clipped = (o.ratio, o.trust.kind, o.aggregation) == ("sequence_product", "clip", "sequence_mean")
    return {
        "objective.baseline: it is leave_one_out": o.baseline != "leave_one_out",
        "objective.scale: it is none": o.scale != "none",
        "objective.ratio: none with sequence_sum, or sequence_product with clip and sequence_mean": not plain
        and not clipped,
        "objective.kl: it is k1 in the reward": o.kl.where != "none"
        and (o.kl.where, o.kl.estimator) != ("reward", "k1"),
        "objective.regularizer.entropy_coef": o.regularizer.entropy_coef > 0,
    }


def _refuse(config: TrainConfig, wrong: dict[str, bool]) -> None:
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(f"{config.algorithm} cannot follow {what}. Change it, or train with rlalign's own trainer")

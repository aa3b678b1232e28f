"""Checks of a whole configuration before any weight is loaded."""

from __future__ import annotations

from dataclasses import replace

from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_fields, check_range


def validate(config: TrainConfig) -> None:
    """Check types, ranges and combinations of every setting.

    Raises:
        UserError: names the setting, the value and the fix.
    """
    check_fields(config)
    r, ln, e = config.rollout, config.learner, config.evaluation
    for name, value, least in (
        ("steps", config.steps, 1),
        ("rollout.prompts", r.prompts, 1),
        ("rollout.group_size", r.group_size, 1),
        ("rollout.max_draws", r.max_draws, 1),
        ("learner.epochs", ln.epochs, 1),
        ("learner.minibatches", ln.minibatches, 1),
        ("learner.micro_batch", ln.micro_batch, 0),
        ("learner.warmup", ln.warmup, 0),
        ("save_every", config.save_every, 0),
        ("keep", config.keep, 1),
        ("evaluation.prompts", e.prompts, 2),
        ("evaluation.samples", e.samples, 1),
        ("evaluation.every", e.every, 0),
        ("evaluation.patience", e.patience, 0),
        ("supervised.align_interval", config.supervised.align_interval, 0),
        ("supervised.weight", config.supervised.weight, 0),
        ("learner.max_grad_norm", ln.max_grad_norm, 0),
        ("learner.weight_decay", ln.weight_decay, 0),
        ("seed", config.seed, 0),
    ):
        check_range(name, value, least=least)
    for name, beta in (("learner.beta1", ln.beta1), ("learner.beta2", ln.beta2)):
        check_range(name, beta, least=0, below=1)
    check_range("learner.lr", ln.lr, above=0)
    _ = r.sampling  # its constructor raises for an impossible distribution
    if r.sampler not in ("decode", "generate"):
        raise UserError(f"unknown sampler '{r.sampler}'.{did_you_mean(r.sampler, ('decode', 'generate'))}")
    _check_minibatches(config)
    config.objective.validate(group_size=r.group_size)
    if e.patience and not e.every:
        raise UserError("evaluation.patience counts validations, and evaluation.every is 0; use --evaluation.every 10")
    if e.patience and e.split == "test":
        raise UserError("evaluation.patience would select weights on the test split; use --evaluation.split validation")
    if r.per_component and r.group_size < 2:
        raise UserError("rollout.per_component normalizes within groups; use --rollout.group-size 2 or more")
    if r.per_component and config.objective.needs_greedy:
        raise UserError(
            "rollout.per_component replaces the reward by normalized components, and the greedy baseline needs the "
            "reward; use another --objective.baseline"
        )
    updates = ln.epochs * ln.minibatches
    if updates > 1 and not config.objective.reuses:
        raise UserError(
            f"{ln.epochs} epochs × {ln.minibatches} minibatches are {updates} updates per rollout, and ratio none does "
            "not correct for them; use --objective.ratio token, or 1 epoch and 1 minibatch"
        )


def _check_minibatches(config: TrainConfig) -> None:
    """Raise UserError unless the samples per step divide into the minibatches, and a micro-batch fits into one."""
    r, ln = config.rollout, config.learner
    n, m = config.samples_per_step, ln.minibatches
    if n % m:
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        nearest = sorted(sorted(divisors, key=lambda d: abs(d - m))[:3])
        raise UserError(
            f"{r.prompts} prompts × {r.group_size} samples = {n} sequences do not divide into {m} minibatches; "
            f"use --learner.minibatches {' or '.join(map(str, nearest))}"
        )
    if ln.micro_batch > n // m:
        raise UserError(
            f"learner.micro_batch {ln.micro_batch} is larger than a minibatch, {n} sequences / {m} = {n // m}; "
            f"use --learner.micro_batch {n // m} or less (0 selects the size)"
        )


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the configuration with derived settings filled in.

    `model.value` follows from the objective, and a KL coefficient of 0 without a target needs no reference policy.
    """
    objective = config.objective
    if objective.kl.where != "none" and objective.kl.coef == 0 and objective.kl.target == 0:
        objective = replace(objective, kl=replace(objective.kl, where="none"))
    model = replace(config.model, value=objective.value.kind)
    return replace(config, objective=objective, model=model)

"""Checks of a whole configuration before any weight is loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rlalign.algorithms import UNTRAINED, learns_from_data
from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.defaults import ENV_OF_DATA, env_of_data
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.config.serialize import to_dict
from rlalign.errors import MissingExtraError, UserError, did_you_mean
from rlalign.objective.registries import ADVANTAGES, UNCHANGED
from rlalign.typecheck import check_fields, check_range, flatten

_MAX_LR = 10.0
_FLOAT32 = (1.18e-38, 3.4e38)  # smallest normal number and largest number
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SEARCHED = 10_000  # distance from a number of minibatches at which divisors are suggested


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
        ("learner.max_bad_updates", ln.max_bad_updates, 1),
        ("save_every", config.save_every, 0),
        ("save_minutes", config.save_minutes, 0),
        ("keep", config.keep, 1),
        ("evaluation.prompts", e.prompts, 2),
        ("evaluation.samples", e.samples, 1),
        ("evaluation.every", e.every, 0),
        ("evaluation.patience", e.patience, 0),
        ("evaluation.stop_kl", e.stop_kl, 0),
        ("evaluation.best_of", e.best_of, 1),
        ("supervised.align_interval", config.supervised.align_interval, 0),
        ("supervised.weight", config.supervised.weight, 0),
        ("learner.max_grad_norm", ln.max_grad_norm, 0),
        ("learner.weight_decay", ln.weight_decay, 0),
        ("seed", config.seed, 0),
    ):
        check_range(name, value, least=least)
    check_range("distill.reward_coef", config.distill.reward_coef, least=0)
    check_range("recorded.held_out", config.recorded.held_out, least=0, below=1)
    check_range("continual.replay", config.continual.replay, least=0, below=1)
    check_range("continual.ewc", config.continual.ewc, least=0)
    check_range("continual.ewc_samples", config.continual.ewc_samples, least=1)
    if config.recorded.max_length is not None:
        check_range("recorded.max_length", config.recorded.max_length, least=2)
    for name, beta in (("learner.beta1", ln.beta1), ("learner.beta2", ln.beta2)):
        check_range(name, beta, least=0, below=1)
    _check_numbers(config)
    # a step of AdamW moves each weight by about lr: weights are of order 1 or less
    check_range("learner.lr", ln.lr, above=0)
    check_range("learner.lr", ln.lr, most=_MAX_LR, fix="use a rate such as 1e-3")
    check_range("objective.value.lr", config.objective.value.lr, most=_MAX_LR, fix="use a rate such as 1e-3")
    if ln.lr * ln.weight_decay > 1:
        raise UserError(
            f"learner.lr {ln.lr:g} × learner.weight_decay {ln.weight_decay:g} = {ln.lr * ln.weight_decay:g}: expected "
            "at most 1, the share of each weight that a step removes; use a smaller --learner.weight-decay"
        )
    _ = r.sampling  # its constructor raises for an impossible distribution
    if r.sampler not in ("decode", "generate"):
        raise UserError(f"unknown sampler '{r.sampler}'.{did_you_mean(r.sampler, ('decode', 'generate'))}")
    if r.sampler == "generate" and config.model.adapter.is_virtual:
        raise UserError(
            f"rollout.sampler generate does not read the virtual tokens of adapter.kind {config.model.adapter.kind}; "
            "use --rollout.sampler decode"
        )
    _check_minibatches(config)
    _check_trackers(config)
    _check_hooks(config)
    config.objective.validate(group_size=r.group_size)
    config.tasks.validate()
    if e.patience and not e.every:
        raise UserError("evaluation.patience counts validations, and evaluation.every is 0; use --evaluation.every 10")
    if config.algorithm in UNTRAINED and (e.patience or e.stop_kl):
        raise UserError(
            f"{config.algorithm} trains nothing that could stop early; use --evaluation.patience 0 and "
            "--evaluation.stop-kl 0"
        )
    if e.patience and e.split == "test":
        raise UserError("evaluation.patience would select weights on the test split; use --evaluation.split validation")
    if e.stop_kl and not e.every and config.objective.kl.where == "none":
        raise UserError(
            f"evaluation.stop_kl {e.stop_kl:g}: expected a measured KL, got neither validations nor a KL term; use "
            "--evaluation.every 1, or --objective.kl.where loss with --objective.kl.coef above 0"
        )
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


def _check_hooks(config: TrainConfig) -> None:
    """Raise UserError for hooks that the trainer never calls, and an advantage that no name rebuilds."""
    advantage = config.objective.advantage
    if advantage.startswith(OBJECT) and advantage not in ADVANTAGES:
        raise UserError(
            f"'{advantage}' was passed as a Python object and cannot be rebuilt by name; pass advantage=..."
        )
    outside = config.algorithm.startswith("trl:") or config.algorithm in UNTRAINED
    hooks = {"objective.advantage": advantage != UNCHANGED, "callbacks": config.callbacks, "metrics": config.metrics}
    unread = [name for name, value in hooks.items() if value]
    if outside and unread:
        raise UserError(
            f"{unread[0]}: {config.algorithm} never calls it; leave it out, or use rlalign's own trainer, such as "
            "--algorithm grpo"
        )


def _check_trackers(config: TrainConfig) -> None:
    """Raise UserError if the package of a tracker is missing; on the tracker's thread it would only be a warning."""
    tracking = config.tracking
    chosen = {"wandb": tracking.wandb != "off", "tensorboard": tracking.tensorboard, "mlflow": tracking.mlflow}
    missing = [
        name
        for name, is_on in chosen.items()
        if (is_on or name in tracking.trackers) and find_spec(name) is None  # the packages have the trackers' names
    ]
    if "wandb" in missing:
        raise UserError(
            f"tracking.wandb {tracking.wandb}: expected the package 'wandb', which is not installed; use pip "
            "install wandb, or --tracking.wandb off"
        )
    if missing:
        raise MissingExtraError(missing[0], missing[0])
    if tracking.push is not None:
        check_repository("tracking.push", tracking.push)


def check_repository(setting: str, name: str) -> None:
    """Raise UserError unless a name has the form OWNER/NAME of a repository on the Hub.

    Args:
        setting: that has the name, for the message.
        name: of the repository.
    """
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"{setting}: expected a repository OWNER/NAME of the Hub, got '{name}'")


def _check_numbers(config: TrainConfig) -> None:
    """Raise UserError for a setting that is too large or too close to 0 for float32."""
    for name, value in flatten(to_dict(config)).items():
        if isinstance(value, float) and value and not _FLOAT32[0] <= abs(value) <= _FLOAT32[1]:
            raise UserError(f"{name}: expected 0 or a number from 1.2e-38 to 3.4e+38, as float32 has, got {value:g}")


def _nearest_divisors(n: int, m: int) -> list[int]:
    """Return up to three divisors of n near m, and 1 if none is near."""
    distances = range(min(max(n, m), _SEARCHED) + 1)
    near = [d for k in distances for d in (m - k, m + k) if 1 <= d <= n and n % d == 0]
    return sorted(near[:3]) or [1]


def _check_minibatches(config: TrainConfig) -> None:
    """Raise UserError unless the samples per step divide into the minibatches, and a micro-batch fits into one."""
    r, ln = config.rollout, config.learner
    n, m = config.samples_per_step, ln.minibatches
    if config.data and learns_from_data(config.algorithm) and not find_algorithm(config.algorithm).data:
        return  # logged rewards: a step has all completions of its prompts, and group_size is not read
    if n % m:
        nearest = _nearest_divisors(n, m)
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

    `model.value` follows from the objective, and a KL coefficient of 0 without a target needs no reference policy. An
    adapter to continue that lies in the policy folder of a run is named. The file of an algorithm is imported, because
    the objective may name functions that the file registers. A cell of a study and a resumed run read the objective
    from their configuration, not from that file.

    Raises:
        UserError: the file of the algorithm cannot be imported.
    """
    if ":" in config.algorithm and not config.algorithm.startswith("trl:"):
        find_algorithm(config.algorithm)
    if config.data and (path := Path(config.data).expanduser()).exists():
        config = replace(config, data=str(path.resolve()))  # the run folder is read from other directories, too
    if config.data and config.env.partition("?")[0] == ENV_OF_DATA:
        config = replace(config, env=env_of_data(config.data, config.recorded.held_out))
    adapter = Path(config.policy).expanduser() / "adapter"
    if config.model.on_adapter == "continue" and (adapter / "adapter_config.json").is_file():
        config = replace(config, policy=str(adapter))  # the policy of a run is merged, with its adapter beside it
    objective = config.objective
    if objective.kl.where != "none" and objective.kl.coef == 0 and objective.kl.target == 0:
        objective = replace(objective, kl=replace(objective.kl, where="none"))
    model = replace(config.model, value=objective.value.kind)
    return replace(config, objective=objective, model=model)

"""What a run is made of: frozen dataclasses, refused as a whole before any weight is loaded.

The command line, `config.json` and `rlalign.train(...)` are three views of `TrainConfig`. Dotted names on the command
line (`--learner.lr 1e-4`, `--objective.kl.coef 0`) are its fields.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from rlalign.errors import UserError, did_you_mean
from rlalign.objective.spec import Objective
from rlalign.policies.options import PolicyOptions
from rlalign.typecheck import check_fields, checked, flatten, hints_of
from rlalign.types import Sampling

D = TypeVar("D")


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is drawn at every step."""

    prompts: int = 4
    """Prompts a step."""
    group_size: int = 8
    """Samples of each prompt."""
    temperature: float = 1.0
    """Of the distribution that tokens are drawn from and scored under; above 0."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0: all."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together reach this probability; 1: all."""
    sampler: str = "decode"
    """decode: our loop; generate: transformers.generate, the reference implementation."""
    max_new: int | None = None
    """Tokens a turn; None: what the environment says."""

    per_component: bool = False
    """Normalise each reward component within its group before they are weighted and summed (GDPO)."""
    max_draws: int = 8
    """Rollouts at most that dynamic sampling makes in a step to find groups with different rewards."""

    @property
    def sampling(self) -> Sampling:
        """The distribution tokens are drawn from and scored under."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True)
class LearnerConfig:
    """How the policy moves."""

    lr: float = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    """Updates over which the learning rate rises linearly from 0."""
    epochs: int = 1
    """Passes over each rollout."""
    minibatches: int = 1
    """Optimizer steps per pass."""
    micro_batch: int = 0
    """Sequences per forward; 0: a whole minibatch, halved when memory runs out, and on a CPU what has up to 8,192
    tokens to be read, or takes about 4 GiB. Never changes the gradient."""
    max_grad_norm: float = 1.0
    """Gradient norm at which to clip; 0: never."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    """Denominator of the ratio when a rollout is used again; auto: the sampler's in float32, else recomputed. `sampler`
    holds for a rollout that is used once, too, whose ratio would be 1 otherwise."""
    max_bad_updates: int = 3
    """Non-finite updates in a row that are skipped before the run stops."""


@dataclass(frozen=True)
class SupervisedConfig:
    """Supervised updates on reference answers, interleaved with the policy gradient: theta -= alpha grad L."""

    align_interval: int = 0
    """A supervised update every so many steps; 0: none. Needs tasks with an `answer` column."""
    weight: float = 1.0
    """Factor of the mean negative log-likelihood of the answers."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out measurement: before, after, and during training."""

    every: int = 0
    """Steps between validations; 0: only before and after."""
    prompts: int = 32
    """Held-out prompts."""
    samples: int = 1
    """Completions of each."""
    patience: int = 0
    """Stop after so many validations without a better reward, and keep the best weights; 0: never."""
    split: Literal["validation", "test"] = "validation"
    """Where they are from."""


@dataclass(frozen=True)
class TrackingConfig:
    """Where metrics go besides metrics.jsonl, which is always written. No tracker can stop a run."""

    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "rlalign"
    tensorboard: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    env: str = "rlalign/Sentiment-v0"
    """Environment: an id of `rlalign list envs`, module:Class, file.py:Class, or a data file with a prompt column."""
    policy: str = "smollm2"
    """Policy: a name of `rlalign list policies`, a local model folder, or a hub id."""
    algorithm: str = "rloo"
    """Preset of `rlalign list algorithms`; --objective.* changes single axes of it."""
    reward: tuple[str, ...] = ()
    """Reward SPEC[=WEIGHT], repeatable. Replaces the environment's own; +SPEC adds to them."""
    steps: int = 24
    """Steps: a rollout and the updates made from it."""
    seed: int = 0
    """Of the policy's start, the tasks and the sampling."""
    output: str | None = None
    """Run folder; None: runs/ENV-POLICY-ALGORITHM-TIME."""
    save_every: int = 0
    """Steps between checkpoints; 0: only at the end and when told to stop."""
    keep: int = 2
    """Checkpoints kept."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    allow_change: bool = False
    """Resume although the configuration differs in what decides the result, or state is missing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    objective: Objective = field(default_factory=Objective)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    model: PolicyOptions = field(default_factory=PolicyOptions)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def samples_per_step(self) -> int:
        """Trajectories of one rollout: prompts × group_size."""
        return self.rollout.prompts * self.rollout.group_size


# Keys that may differ between a run and its continuation without changing what the steps compute.
_SAFE = ("steps", "output", "save_every", "keep", "resume", "allow_change", "device", "evaluation", "tracking")


def validate(config: TrainConfig) -> None:
    """Refuse impossible configurations with the numbers and the fix, before anything is loaded. Raises UserError."""
    check_fields(config)
    r, ln = config.rollout, config.learner
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
        ("evaluation.prompts", config.evaluation.prompts, 2),
        ("evaluation.samples", config.evaluation.samples, 1),
        ("evaluation.every", config.evaluation.every, 0),
        ("evaluation.patience", config.evaluation.patience, 0),
        ("supervised.align_interval", config.supervised.align_interval, 0),
        ("supervised.weight", config.supervised.weight, 0),
        ("learner.max_grad_norm", ln.max_grad_norm, 0),
        ("learner.weight_decay", ln.weight_decay, 0),
        ("seed", config.seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} is {value}: it must be at least {least}")
    for name, beta in (("learner.beta1", ln.beta1), ("learner.beta2", ln.beta2)):
        if not 0 <= beta < 1:
            raise UserError(f"{name} is {beta}: it must lie in [0, 1)")
    _ = r.sampling  # refuses what is no distribution
    if r.sampler not in ("decode", "generate"):
        raise UserError(f"unknown sampler '{r.sampler}'.{did_you_mean(r.sampler, ('decode', 'generate'))}")
    if not ln.lr > 0:
        raise UserError(f"learner.lr is {ln.lr}: it must be above 0, or nothing is learnt")
    n, m = config.samples_per_step, ln.minibatches
    if n % m:
        fits = [d for d in range(1, n + 1) if n % d == 0]
        near = sorted(sorted(fits, key=lambda d: abs(d - m))[:3])
        raise UserError(
            f"{r.prompts} prompts × {r.group_size} samples = {n} sequences do not divide into {m} minibatches: "
            f"use --learner.minibatches {' or '.join(map(str, near))}"
        )
    if ln.micro_batch > n // m:
        raise UserError(
            f"learner.micro_batch {ln.micro_batch} is larger than a minibatch, {n} sequences / {m} = {n // m}: "
            f"use --learner.micro_batch {n // m} or less (0 finds the size by itself)"
        )
    config.objective.validate(group_size=r.group_size)
    if config.evaluation.patience and not config.evaluation.every:
        raise UserError("evaluation.patience counts validations, and there are none: add --evaluation.every 10, say")
    if config.evaluation.patience and config.evaluation.split == "test":
        raise UserError(
            "evaluation.patience would choose weights by the test split: leave evaluation.split at validation"
        )
    if r.per_component and r.group_size < 2:
        raise UserError("rollout.per_component normalises within groups: use --rollout.group-size 2 or more")
    if r.per_component and config.objective.needs_greedy:
        raise UserError("rollout.per_component leaves no reward that a greedy baseline could be compared with")
    updates = ln.epochs * ln.minibatches
    if updates > 1 and not config.objective.reuses:
        raise UserError(
            f"{ln.epochs} epochs × {ln.minibatches} minibatches are {updates} updates of one rollout, and ratio none "
            "corrects for none of them: use --objective.ratio token, or 1 epoch and 1 minibatch"
        )


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what follows from other choices: what estimates values, no reference for a coefficient of 0."""
    objective = config.objective
    if objective.kl.where != "none" and objective.kl.coef == 0 and objective.kl.target == 0:
        objective = replace(objective, kl=replace(objective.kl, where="none"))
    model = replace(config.model, value=objective.value.kind)
    return replace(config, objective=objective, model=model)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(cls: type[D], data: Mapping[str, Any], where: str = "") -> D:
    """The dataclass of a plain dictionary; unknown keys are refused with a suggestion. Missing keys take defaults."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where.removesuffix('.') or 'a configuration'} is {data!r}: it must be an object of settings")
    hints = hints_of(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]  # D is a dataclass by contract
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in names:
            raise UserError(f"unknown setting '{where}{key}'.{did_you_mean(key, names)}")
        values[key] = _typed(hints[key], value, where + key)
    return cls(**values)


def _typed(hint: Any, value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(hint):
        return checked(hint, value, name)
    assert isinstance(hint, type)
    return value if isinstance(value, hint) else from_dict(hint, value, f"{name}.")


def update(config: D, changes: Mapping[str, Any]) -> D:
    """A copy with dotted keys replaced: `update(config, {"learner.lr": 1e-4})`. Unknown keys are refused."""
    data = to_dict(config)
    for key, value in changes.items():
        at, parts = data, key.split(".")
        for i, part in enumerate(parts):
            if not isinstance(at, dict) or part not in at:
                known = sorted(at) if isinstance(at, dict) else []
                raise UserError(f"unknown setting '{key}'.{did_you_mean('.'.join(parts[i:]), known)}")
            if i < len(parts) - 1:
                at = at[part]
        at[parts[-1]] = list(value) if isinstance(value, tuple) else value
    return from_dict(type(config), data)


def differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value) for every setting that differs."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def unsafe(key: str, config: TrainConfig) -> bool:
    """True if a change of this key makes the continuation another experiment."""
    if key == "steps" and config.learner.lr_schedule != "constant":
        return True  # the schedule's shape depends on the end
    return key.split(".")[0] not in _SAFE


def fingerprint(config: TrainConfig) -> str:
    """sha256 of the settings that decide a run's result."""
    kept = {k: v for k, v in flatten(to_dict(config)).items() if unsafe(k, config)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

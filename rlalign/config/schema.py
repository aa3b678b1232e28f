"""The configuration of a run, as frozen dataclasses.

The command line, `config.json` and `rlalign.train(...)` are three views of `TrainConfig`. Dotted names on the command
line (`--learner.lr 1e-4`, `--objective.kl.coef 0`) are its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlalign.objective.spec import Objective
from rlalign.policies.options import PolicyOptions
from rlalign.types import Sampling

OBJECT = "object:"
"""Prefix of an environment or reward that was passed as a Python object and cannot be rebuilt by name."""


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
    rewards: tuple[str, ...] = ()
    """Rewards as SPEC[=WEIGHT]; on the command line --reward SPEC, repeatable. They replace the environment's own; +SPEC
    adds to them."""
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

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
    """Sampling of rollouts."""

    prompts: int = 4
    """Prompts per step."""
    group_size: int = 8
    """Samples per prompt."""
    temperature: float = 1.0
    """Temperature of the distribution that tokens are sampled from and scored under; above 0."""
    top_k: int = 0
    """Sample from the k most probable tokens; 0: all."""
    top_p: float = 1.0
    """Sample from the most probable tokens whose probabilities sum to this; 1: all."""
    sampler: str = "decode"
    """decode: the optimized decode loop; generate: transformers.generate, the reference implementation."""
    max_new: int | None = None
    """Tokens per turn; None: the environment's limit."""

    per_component: bool = False
    """Normalize each reward component within its group before the weighted sum (GDPO)."""
    max_draws: int = 8
    """Largest number of rollouts per step that dynamic sampling makes to find groups with reward variance."""

    @property
    def sampling(self) -> Sampling:
        """The distribution that tokens are sampled from and scored under."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True)
class LearnerConfig:
    """Optimizer and reuse of rollouts."""

    lr: float = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    """Updates over which the learning rate rises linearly from 0."""
    epochs: int = 1
    """Passes over each rollout."""
    minibatches: int = 1
    """Optimizer steps per pass."""
    micro_batch: int = 0
    """Sequences per forward pass; 0: a whole minibatch, halved when memory runs out; on a CPU as many as have 8,192
    tokens to read or need about 4 GiB. The gradient does not depend on it."""
    max_grad_norm: float = 1.0
    """Gradient norm at which the gradient is clipped; 0: never."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    """Denominator of the ratio when a rollout is reused; auto: the sampler's in float32, else recomputed. `sampler`
    also applies to a rollout that is used once, whose ratio is 1 otherwise."""
    max_bad_updates: int = 3
    """Non-finite updates in a row after which the run stops; fewer are skipped."""


@dataclass(frozen=True)
class SupervisedConfig:
    """Supervised updates on reference answers, interleaved with the policy gradient: theta -= alpha grad L."""

    align_interval: int = 0
    """Steps between supervised updates; 0: none. Needs tasks with an `answer` column."""
    weight: float = 1.0
    """Factor of the mean negative log-likelihood of the answers."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on held-out prompts: before, during and after training."""

    every: int = 0
    """Steps between validations; 0: only before and after."""
    prompts: int = 32
    """Held-out prompts."""
    samples: int = 1
    """Completions per prompt."""
    patience: int = 0
    """Early stopping: validations without a better reward after which the run stops with the best weights; 0: never."""
    split: Literal["validation", "test"] = "validation"
    """Split of the held-out prompts."""


@dataclass(frozen=True)
class TrackingConfig:
    """Trackers besides metrics.jsonl, which is always written. A failing tracker does not stop a run."""

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
    """Rewards as SPEC[=WEIGHT]; on the command line --reward SPEC, repeatable. They replace the environment's own; a
    leading + adds to these."""
    steps: int = 24
    """Training steps; a step is one rollout and the updates made from it."""
    seed: int = 0
    """Seed of the initial policy, the order of tasks and the sampling."""
    output: str | None = None
    """Run folder; None: runs/ENV-POLICY-ALGORITHM-TIME."""
    save_every: int = 0
    """Steps between checkpoints; 0: only at the end and when a stop is requested."""
    keep: int = 2
    """Checkpoints kept."""
    resume: bool = False
    """Resume from the newest checkpoint of the run folder."""
    allow_change: bool = False
    """Resume although a setting that decides the result differs, or state is missing."""
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
        """Trajectories per rollout: prompts × group_size."""
        return self.rollout.prompts * self.rollout.group_size

"""The configuration of a run, as frozen dataclasses.

The command line, `config.json` and `rlalign.train(...)` are three views of `TrainConfig`. Dotted names on the command
line (`--learner.lr 1e-4`, `--objective.kl.coef 0`) are its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlalign.envs.task_order.options import TaskOptions
from rlalign.objective.spec import Objective
from rlalign.policies.options import PolicyOptions
from rlalign.types import Sampling

OBJECT = "object:"
"""Prefix of an environment or reward that was passed as a Python object and cannot be rebuilt by name."""


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling of rollouts."""

    prompts: int = 4
    """Prompts per step, P. The batch size of a step is prompts × group_size completions."""
    group_size: int = 8
    """Group size, G: samples per prompt. A step draws prompts × group_size completions."""
    temperature: float = 1.0
    """Temperature of the distribution that tokens are sampled from and scored under; above 0."""
    top_k: int = 0
    """Sample from the k most probable tokens; 0: from all tokens."""
    top_p: float = 1.0
    """Sample from the smallest set of most probable tokens whose probabilities sum to at least this, in (0, 1]; 1: from
    all tokens."""
    sampler: str = "decode"
    """decode: the optimized decode loop; generate: transformers.generate, the reference implementation."""
    max_new: int | None = None
    """Largest number of tokens per turn; None: the environment's limit."""
    max_prompt: int | None = None
    """Largest number of tokens of a prompt, without those that rollout.chat_template adds; None: the environment's
    limit, and for a data file its longest prompt."""
    chat_template: Literal["auto", "on", "off"] = "auto"
    """Prompts that are plain texts. on: user messages in the policy's chat template; off: the text itself; auto: on for
    environments that ask questions (reasoning, math) if the policy has a chat template. Turns may be longer then."""
    per_component: bool = False
    """Normalize each reward component within its group before the weighted sum (GDPO)."""
    max_draws: int = 8
    """Largest number of rollouts per step that dynamic sampling makes to find groups with reward variance; read only
    with objective.filter.dynamic_sampling."""

    @property
    def sampling(self) -> Sampling:
        """The distribution that tokens are sampled from and scored under."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclass(frozen=True)
class LearnerConfig:
    """Optimizer and reuse of rollouts."""

    lr: float = 1e-3
    """Learning rate of AdamW after warmup; above 0."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after warmup: constant; linear: falls to 0 at the last update; cosine: falls to 0 along half a
    cosine."""
    warmup: int = 0
    """Updates over which the learning rate rises linearly from lr / warmup to lr; 0: none."""
    epochs: int = 1
    """Passes over each rollout; more than 1 needs a ratio or a custom loss."""
    minibatches: int = 1
    """Optimizer steps per pass, each on an equal share of the rollout's sequences; more than 1 needs a ratio or a
    custom loss."""
    micro_batch: int = 0
    """Sequences per forward pass; 0: a whole minibatch, halved when memory runs out; on a CPU as many as have 8,192
    tokens to read or need about 4 GiB. The gradient does not depend on it."""
    max_grad_norm: float = 1.0
    """Euclidean norm of the whole gradient above which it is scaled down to this norm; 0: no clipping."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW: each step subtracts lr · weight_decay · weight; 0: none."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients per update, in [0, 1)."""
    beta2: float = 0.999
    """AdamW's decay of the mean of squared gradients per update, in [0, 1)."""
    old_logprobs: Literal["auto", "sampler", "recompute"] = "auto"
    """Source of the log-probs in the ratio's denominator. sampler: those of the sampled tokens; recompute: scored
    before the first update; auto: sampler in float32, else recompute. A rollout that is used once has ratio 1, except
    with sampler."""
    max_bad_updates: int = 3
    """Non-finite updates in a row after which the run stops; fewer are skipped."""


@dataclass(frozen=True)
class SupervisedConfig:
    """Supervised updates on reference answers, interleaved with the policy gradient: theta -= alpha grad L."""

    align_interval: int = 0
    """Steps between supervised updates on the reference answers of rollout.prompts tasks; 0: none. Needs tasks with an
    `answer` column."""
    weight: float = 1.0
    """Factor of the supervised loss, the mean of -log pi over the tokens of the answers; 0 or more."""


@dataclass(frozen=True)
class RecordedConfig:
    """Recorded data that is trained on: the file of --data."""

    kind: Literal["auto", "demonstrations", "rewards", "labels", "pairs"] = "auto"
    """What the data is read as; on the command line also --as KIND. auto: its columns decide, and the algorithm must
    learn from that kind; demonstrations: completions to imitate, of pairs the chosen ones; rewards: completions with
    logged rewards; labels: desirable and undesirable completions, of pairs both; pairs: a chosen and a rejected
    completion of one prompt."""
    turns: Literal["all", "last"] = "all"
    """Answers of a conversation that are trained on: all, or the last one. Other turns never are."""
    max_length: int | None = None
    """Largest number of tokens of prompt and completion; longer rows are left out and counted, never cut. None: as
    many as the model reads."""
    held_out: float = 0.1
    """Share of the rows that are not trained on, by groups of nearly equal prompts, in [0, 1); read if the data has no
    splits of its own."""


@dataclass(frozen=True)
class DistillConfig:
    """Distillation: how the teacher's signal is mixed with the environment's."""

    reward_coef: float = 0.0
    """Coefficient of the environment's reward beside the teacher's log-ratio, 0 or more. 0: the reward is logged, and
    only the teacher is learned from. Read by distill; seq_kd reads no reward."""


@dataclass(frozen=True)
class ContinualConfig:
    """Continued learning from a former run, whose policy is the setting policy (see docs/concepts/continual.md)."""

    optimizer: Literal["fresh", "kept"] = "fresh"
    """State of AdamW at the start. fresh: none; kept: moments and step counts of the former run's newest checkpoint,
    which needs the same trained parameters."""
    anchor: Literal["new", "previous", "both"] = "new"
    """Reference policy of the KL. new: the policy that this run starts from; previous: the reference policy of the
    former run, which is its initial policy unless it had this setting itself; both: the mean of the KLs to the two."""
    replay: float = 0.0
    """Share of the prompts that come from the former run's environment, with its rewards, in [0, 1); 0: none."""
    replay_schedule: Literal["constant", "linear"] = "constant"
    """Share of replayed prompts over the run. constant: continual.replay in each step; linear: from continual.replay
    in the first step to 0 in the last."""
    ewc: float = 0.0
    """Coefficient lambda of elastic weight consolidation, the penalty lambda/2 · Σ F (theta - theta_start)², 0 or more;
    F is the diagonal Fisher information of the former run's environment. 0: none. Needs the same trained parameters as
    the former run."""
    ewc_samples: int = 256
    """Completions from which the Fisher information is estimated, once at the start; at least 1."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on held-out prompts: before, during and after training."""

    every: int = 0
    """Steps between validations, which log `eval/` metrics; 0: only before and after training."""
    prompts: int = 32
    """Number of held-out prompts of each evaluation, of each environment of a mixture; at least 2."""
    samples: int = 1
    """Completions per held-out prompt."""
    patience: int = 0
    """Early stopping: validations in a row without a better reward after which the run stops and restores the best
    weights; 0: never. Above 0, the test split is used before and after training."""
    stop_kl: float = 0.0
    """KL budget in nats per completion: training ends after the first step whose KL to the reference policy is above
    it; 0: never. With evaluation.every the KL on held-out prompts is read, else that of the training samples."""
    best_of: int = 16
    """Completions per held-out prompt of which the algorithm best_of_n keeps the one with the highest reward; read by
    it alone."""
    split: Literal["validation", "test"] = "validation"
    """Split of the held-out prompts. validation: for choosing settings; test: for the numbers to report; neither is
    trained on."""


@dataclass(frozen=True)
class TrackingConfig:
    """Trackers besides metrics.jsonl, which is always written, and the upload of the result. Neither can stop a run."""

    wandb: Literal["off", "online", "offline"] = "off"
    """Weights & Biases. off: not used; online: sends each step to the server; offline: writes files for `wandb sync`
    into the run folder."""
    project: str = "rlalign"
    """Project of the run in Weights & Biases; experiment in MLflow."""
    tensorboard: bool = False
    """Write TensorBoard files into the folder `tensorboard` of the run."""
    mlflow: bool = False
    """Log to MLflow: to the store that MLFLOW_TRACKING_URI names, by default the folder `mlruns` of the run."""
    trackers: tuple[str, ...] = ()
    """Further trackers, by name of an entry point of the group `rlalign.trackers`, as module:Class or file.py:Class; on
    the command line --tracker SPEC, repeatable."""
    push: str | None = None
    """Repository of the Hugging Face Hub, OWNER/NAME, to which the policy and its card are uploaded at the end; it is
    created as private. On the command line also --push REPO. None: no upload."""


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    env: str = "rlalign/Sentiment-v0"
    """Environment: an id of `rlalign list envs`, module:Class, file.py:Class, or a data file with a prompt column.
    Several: a,b or a=0.7,b=0.3 are a mixture, a@0,b@200 one after another from these steps on."""
    policy: str = "smollm2"
    """Policy: a name of `rlalign list policies`, a local model folder, or a hub id."""
    algorithm: str = "rloo"
    """Preset of `rlalign list algorithms`; --objective.* changes single axes of it."""
    rewards: tuple[str, ...] = ()
    """Rewards as SPEC[=WEIGHT]; on the command line --reward SPEC, repeatable. They replace the environment's own; a
    leading + adds to these."""
    callbacks: tuple[str, ...] = ()
    """Callbacks as file.py:Class or module:Class; on the command line --callback SPEC, repeatable. They are called in
    this order."""
    metrics: tuple[str, ...] = ()
    """Metrics of your own as file.py:function or module:function; on the command line --metric SPEC, repeatable. They
    are logged as metric/NAME at each step and in each evaluation."""
    data: str | None = None
    """Recorded data to train on instead of samples: a JSONL, JSON, CSV or Parquet file, a folder of datasets, or a hub
    data set. Columns: messages, or prompt and completion (sft); prompt, chosen and rejected, or another format of
    `rlalign feedback check` (dpo, ipo, simpo); prompt, completion and label (kto); prompt, completion and reward
    (policy gradients). None: the policy samples."""
    teacher: str | None = None
    """Teacher of distill and seq_kd: a model folder, a run folder (its policy), a hub id, a name of `rlalign list
    policies`, or the URL of a server that gives the log-probs of token ids, such as http://127.0.0.1:8000/v1?model=NAME
    (see docs/concepts/distillation.md). It is frozen, and has the policy's vocabulary. None: no teacher."""
    steps: int = 24
    """Training steps; a step is one rollout and the updates made from it. With --data it reads rollout.prompts groups:
    rows, pairs, or all completions of a prompt with logged rewards."""
    seed: int = 0
    """Seed of the initial policy, the order of tasks, the sampling and the evaluations; 0 or more."""
    output: str | None = None
    """Run folder; None: runs/ENV-POLICY-ALGORITHM-TIME."""
    on_bad_record: Literal["fail", "drop"] = "fail"
    """Records that cannot be used: a prompt without text, too long or refused by the chat template, an answer that no
    reward can compare. All data is checked before the first step. fail: the run does not start; drop: it leaves them
    out, prints their number and lists them in data.json."""
    save_every: int = 0
    """Steps between checkpoints; 0: by time alone (save_minutes), and whenever the run ends."""
    save_minutes: float = 10.0
    """Minutes after which a step ends with a checkpoint; 0: never by time."""
    keep: int = 2
    """Number of newest checkpoints that are kept; at least 1."""
    resume: bool = False
    """Resume from the newest checkpoint of the run folder; on the command line also --resume FOLDER."""
    allow_change: bool = False
    """Resume although a setting, data, code or weights that decide the result differ, or state is missing."""
    trust_run: bool = False
    """Resume a run folder that somebody else wrote, whose config.json names code. It can do anything that you can."""
    device: str = "auto"
    """Device of the policy: cpu, cuda, cuda:1, ...; auto: cuda if it is available, else cpu."""
    objective: Objective = field(default_factory=Objective)
    """One value per axis of the objective; the preset sets them."""
    tasks: TaskOptions = field(default_factory=TaskOptions)
    """Order of the training tasks, and the shares of environments in a mixture."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling of rollouts."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Optimizer and reuse of rollouts."""
    model: PolicyOptions = field(default_factory=PolicyOptions)
    """Size, adapters and precision of the policy."""
    recorded: RecordedConfig = field(default_factory=RecordedConfig)
    """Recorded data that is trained on."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Distillation from a teacher."""
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    """Supervised updates on reference answers, interleaved with the policy gradient."""
    continual: ContinualConfig = field(default_factory=ContinualConfig)
    """Continued learning from a former run."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation on held-out prompts before, during and after training."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Trackers besides metrics.jsonl."""

    @property
    def samples_per_step(self) -> int:
        """Trajectories per rollout: prompts × group_size."""
        return self.rollout.prompts * self.rollout.group_size

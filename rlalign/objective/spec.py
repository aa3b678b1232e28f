"""An algorithm is data: one value per axis. This file says which values there are and which do not go together.

Nothing here computes; the modules beside it do, one axis each. Plain strings, numbers and nested frozen dataclasses
only, so that a point on the axes is a JSON object and a set of command-line flags.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlalign.errors import UserError
from rlalign.objective.registries import BASELINES, BUILT_IN_TRUSTS, LOSSES, TRUSTS, check_axis
from rlalign.typecheck import check_fields

GROUP_BASELINES = ("group_mean", "leave_one_out", "length_weighted_group_mean")


@dataclass(frozen=True)
class Credit:
    """Which reward a token answers for."""

    kind: Literal["trajectory", "reward_to_go", "gae"] = "trajectory"
    """trajectory: the whole return; reward_to_go: what came after; gae: generalised advantage estimation."""
    gamma: float = 1.0
    """Discount per token; below 1 the gradient of the undiscounted return is biased."""
    lambda_actor: float = 0.95
    """GAE lambda of the advantages."""
    lambda_critic: float = 0.95
    """GAE lambda of the returns that the value learns; 1 is Monte Carlo (VC-PPO)."""
    length_alpha: float = 0.0
    """Above 0: lambda_actor = 1 - 1 / (length_alpha · tokens), at least 0 (VAPO: 0.05)."""
    bootstrap: bool = True
    """Count V(s_T) after a truncated episode. Turn it off where the reward is paid in full at the limit: the limit then
    belongs to the MDP, and V(s_T) would be paid on top of it."""


@dataclass(frozen=True)
class Trust:
    """How far one batch may move the policy."""

    kind: str = "none"
    """none, clip, dual_clip, stopgrad_cap (CISPO), soft_gate (SAPO), log_clip (GMPO), divergence_mask (DPPO), or your
    own."""
    low: float = 0.2
    """Ratio floor is 1 - low; for log_clip the log-ratio floor is -low; 1 is no floor."""
    high: float = 0.2
    """Ratio ceiling is 1 + high; for log_clip the log-ratio ceiling is +high."""
    dual: float = 3.0
    """dual_clip: the ceiling of the ratio where the advantage is negative; above 1 + high."""
    tau_pos: float = 1.0
    """soft_gate: temperature where the advantage is positive."""
    tau_neg: float = 1.05
    """soft_gate: temperature elsewhere."""
    divergence: Literal["tv", "kl"] = "tv"
    """divergence_mask: total variation or KL of the two-outcome (this token or not) distributions."""
    delta: float = 0.15
    """divergence_mask: tokens beyond it stop moving away."""


@dataclass(frozen=True)
class KL:
    """The pull towards the reference policy."""

    where: Literal["none", "reward", "loss"] = "none"
    coef: float = 0.05
    """beta; the starting value if target is above 0."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """With k1 = log pi/ref: k1, k1²/2, or exp(-k1) + k1 - 1."""
    level: Literal["token", "sequence"] = "token"
    """Estimate per token and sum, or on the sequence's whole log-ratio."""
    importance: Literal["none", "token", "sequence", "geomean"] = "none"
    """Weigh the estimate in the loss by the ratio pi/old of the token, of the sequence or its geometric mean (as TRL
    does at sequence level), with its gradient."""
    target: float = 0.0
    """Above 0: adapt beta so that KL stays near this many nats per completion."""
    horizon: int = 10_000
    """Samples over which the adaptation acts."""


@dataclass(frozen=True)
class Value:
    """The critic."""

    kind: Literal["none", "head", "model"] = "none"
    """none, a head on the policy's body, or a model: a second body that starts as a copy of the policy's and shares no
    trained weight with it."""
    coef: float = 0.1
    """Weight of the value loss."""
    clip: float = 0.0
    """How far a value may leave its value at rollout before its loss stops falling; 0: no clip."""
    pretrain_steps: int = 0
    """Steps in which rollouts teach the value alone (VC-PPO): its head or model moves, the policy's body does not."""
    lr: float = 0.0
    """Learning rate of the value's own parameters, the head or the model, on the same schedule; 0: the policy's."""


@dataclass(frozen=True)
class OffPolicy:
    """Correction for a sampler whose probabilities are not the learner's."""

    kind: Literal["none", "tis", "mis", "opsm"] = "none"
    """tis: min(w, high); mis: w where low <= w <= high, else 0; opsm: drop a sequence of A < 0 and mean KL > delta."""
    level: Literal["token", "sequence"] = "token"
    """w = pi_old / pi_sampler of a token, or of the sequence."""
    low: float = 0.5
    high: float = 2.0
    delta: float = 0.1


@dataclass(frozen=True)
class Filter:
    """Which samples enter the loss, and the penalty on overlong ones."""

    dynamic_sampling: bool = False
    """Groups whose rewards are all equal leave the batch (and are drawn again by a rollout that can)."""
    drop_truncated: bool = False
    """Truncated samples vote in the baseline and leave the loss."""
    overlong: float = 0.0
    """Share of the limit L_max in which the length penalty grows from 0 to overlong_penalty (DAPO: 0.2); 0: none."""
    overlong_penalty: float = 1.0


@dataclass(frozen=True)
class Regularizer:
    """Terms added to the policy loss."""

    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    nll_coef: float = 0.0
    """Weight of the mean of -log pi over the tokens of samples whose reward is above nll_above (VAPO: 0.1)."""
    nll_above: float = 0.0


@dataclass(frozen=True)
class Objective:
    """One point on the axes. The default is the plain policy gradient: E[R · grad log pi(completion)]."""

    baseline: str = "none"
    """none, ema, batch_mean, value, greedy, group_mean, leave_one_out, length_weighted_group_mean, or yours."""
    scale: Literal["none", "group_std", "batch_std", "whiten", "group_mean"] = "none"
    """What the advantage is divided by."""
    credit: Credit = field(default_factory=Credit)
    ratio: Literal["none", "token", "sequence_product", "sequence_geomean"] = "none"
    """pi/old of what; none is the log-prob policy gradient."""
    trust: Trust = field(default_factory=Trust)
    aggregation: Literal["sequence_sum", "sequence_mean", "token_global", "constant"] = "sequence_sum"
    """How token losses become one number."""
    kl: KL = field(default_factory=KL)
    value: Value = field(default_factory=Value)
    off_policy: OffPolicy = field(default_factory=OffPolicy)
    filter: Filter = field(default_factory=Filter)
    regularizer: Regularizer = field(default_factory=Regularizer)
    loss: str = "surrogate"
    """surrogate: ratio, trust and off_policy say what it is; or your own, by name or file.py:function."""
    ema_decay: float = 0.9
    """Of the ema baseline, per step."""
    scale_eps: float = 1e-4
    """Added to a standard deviation before dividing."""

    @property
    def needs_reference(self) -> bool:
        """Log-probs of the frozen reference are used."""
        return self.kl.where != "none"

    @property
    def needs_values(self) -> bool:
        """A critic is used and trained."""
        return self.value.kind != "none"

    @property
    def needs_greedy(self) -> bool:
        """Every prompt needs the reward of one greedy completion."""
        return self.baseline == "greedy"

    @property
    def needs_group(self) -> bool:
        """Several samples of one prompt are compared."""
        return (
            self.baseline in GROUP_BASELINES
            or self.scale in ("group_std", "group_mean")
            or self.filter.dynamic_sampling
        )

    @property
    def needs_entropy(self) -> bool:
        """The entropy of the policy enters the loss, with gradient."""
        return self.regularizer.entropy_coef != 0.0

    @property
    def reuses(self) -> bool:
        """A batch may be used for several updates: something bounds how far they go."""
        return self.ratio != "none" or self.loss != "surrogate"

    def validate(self, *, group_size: int | None = None) -> None:
        """Refuse unknown values and impossible or explosive combinations: UserError with the reason and the fix."""
        check_fields(self, "objective.")
        for registry, name in ((BASELINES, self.baseline), (TRUSTS, self.trust.kind), (LOSSES, self.loss)):
            check_axis(registry, name)
        for wrong, message in _conflicts(self, group_size):
            if wrong:
                raise UserError(message)


def _conflicts(o: Objective, group_size: int | None) -> list[tuple[bool, str]]:
    """(does it apply, what to say): the combinations that are refused."""
    c, t, k, v, f, d = o.credit, o.trust, o.kl, o.value, o.off_policy, o.filter
    return [
        (
            o.needs_group and group_size == 1,
            f"baseline {o.baseline} with scale {o.scale} compares the samples of a prompt, and group_size is 1, so "
            "every advantage would be 0: use --rollout.group-size 2 or more, or baseline ema",
        ),
        (
            o.baseline == "leave_one_out" and o.scale in ("group_std", "group_mean"),
            f"baseline leave_one_out with scale {o.scale} explodes where one sample of a group differs: "
            "use baseline group_mean with it, or scale none",
        ),
        (
            c.kind == "gae" and not o.needs_values,
            "credit gae needs values: use --objective.value.kind head or model, or credit reward_to_go",
        ),
        (
            c.kind == "gae" and o.baseline != "value",
            f"credit gae has the value as its baseline, and baseline is '{o.baseline}': use --objective.baseline value",
        ),
        (
            o.baseline == "value" and not o.needs_values,
            "baseline value needs values: use --objective.value.kind head or model",
        ),
        (
            o.needs_values and o.baseline != "value",
            f"a value is trained and baseline {o.baseline} never looks at it: use --objective.baseline value, or "
            "--objective.value.kind none",
        ),
        (
            c.kind == "gae" and o.scale in ("group_std", "group_mean", "batch_std"),
            f"scale {o.scale} divides by a spread of whole returns, and gae advantages are per token: use scale whiten "
            "or none",
        ),
        (
            o.scale == "group_mean" and o.baseline not in ("group_mean", "none"),
            f"scale group_mean is MaxRL's (r - m)/m and goes with baseline group_mean or none, not '{o.baseline}'",
        ),
        (
            o.ratio == "none" and t.kind in BUILT_IN_TRUSTS[1:] and o.loss == "surrogate",
            f"trust {t.kind} bounds a ratio, and ratio is none: use --objective.ratio token",
        ),
        (
            t.kind == "log_clip" and o.ratio != "sequence_geomean",
            "trust log_clip clips the token log-ratios inside a geometric mean: use --objective.ratio sequence_geomean",
        ),
        (
            t.kind == "divergence_mask" and o.ratio not in ("token", "none"),
            "trust divergence_mask compares the probabilities of tokens: use --objective.ratio token",
        ),
        (
            o.ratio == "sequence_product" and o.aggregation != "sequence_mean",
            f"ratio sequence_product is one number a sequence; aggregation {o.aggregation} would count it once per "
            "token: use --objective.aggregation sequence_mean",
        ),
        (
            k.importance != "none" and k.where != "loss",
            "kl.importance weighs the estimate in the loss: use --objective.kl.where loss, or kl.importance none",
        ),
        (
            k.target > 0 and k.where == "none",
            "kl.target adapts a coefficient that is not used: use kl.where reward or loss",
        ),
        (k.coef < 0, f"kl.coef is {k.coef}: below 0 it pushes the policy away from the reference"),
        (k.target < 0 or k.horizon < 1, "kl.target must be 0 or more and kl.horizon 1 or more"),
        (not 0 <= c.gamma <= 1, f"credit.gamma is {c.gamma}: it must lie in [0, 1]"),
        (
            not (0 <= c.lambda_actor <= 1 and 0 <= c.lambda_critic <= 1),
            f"credit.lambda_actor, lambda_critic are {c.lambda_actor}, {c.lambda_critic}: they must lie in [0, 1]",
        ),
        (c.length_alpha < 0, f"credit.length_alpha is {c.length_alpha}: it must be 0 (off) or more"),
        (t.low < 0 or t.high < 0, f"trust.low and trust.high are {t.low} and {t.high}: they must be 0 or more"),
        (
            t.kind == "dual_clip" and t.dual <= 1 + t.high,
            f"trust.dual is {t.dual}: it must be above 1 + trust.high = {1 + t.high}",
        ),
        (t.tau_pos <= 0 or t.tau_neg <= 0, "trust.tau_pos and tau_neg must be above 0"),
        (f.low > f.high or f.high <= 0, f"off_policy.low and high are {f.low} and {f.high}: 0 < high and low <= high"),
        (
            min(v.coef, v.clip, v.pretrain_steps, v.lr) < 0,
            "value.coef, clip, pretrain_steps and lr must be 0 or more",
        ),
        (
            v.pretrain_steps > 0 and not o.needs_values,
            f"value.pretrain_steps is {v.pretrain_steps}, and there is no value to train: use 0, or "
            "--objective.value.kind head or model",
        ),
        (
            not 0 <= d.overlong < 1,
            f"filter.overlong is {d.overlong}: it is a share of the limit and must lie in [0, 1)",
        ),
        (not 0 <= o.ema_decay < 1, f"ema_decay is {o.ema_decay}: it must lie in [0, 1)"),
        (o.scale_eps < 0, f"scale_eps is {o.scale_eps}: it must be 0 or more"),
    ]

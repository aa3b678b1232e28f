"""The specification of an objective: one value per axis, and the checks of each value and combination.

Nothing here computes: the other modules of this package do, one axis each. Values are strings, numbers and nested
frozen dataclasses, so that an objective is a JSON object and a set of command-line flags.

The eleven axes: baseline, scale, credit, ratio, trust, aggregation, kl, value, off_policy, filter, regularizer. A
custom `loss` takes the place of ratio, trust and off_policy. A preference loss (dpo, ipo, kto, simpo) takes the
place of all axes but kl: see `preference_settings`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from rlalign.errors import UserError
from rlalign.objective import preference_settings
from rlalign.objective.preference_settings import Preference as Preference
from rlalign.objective.registries import BUILT_IN_TRUSTS, GROUP_BASELINES, UNCHANGED, check_functions
from rlalign.typecheck import check_fields, check_range, flatten


@dataclass(frozen=True)
class Credit:
    """The rewards that each token is credited with."""

    kind: Literal["trajectory", "reward_to_go", "gae"] = "trajectory"
    """trajectory: each token is credited with the return of the episode; reward_to_go: with the rewards from the token
    on; gae: with generalized advantage estimation, which needs a value."""
    gamma: float = 1.0
    """Discount per token, in [0, 1]; below 1, the gradient of the undiscounted return is biased. Credit trajectory does
    not read it."""
    lambda_actor: float = 0.95
    """GAE lambda of the advantages, in [0, 1]; 1: return minus value."""
    lambda_critic: float = 0.95
    """GAE lambda of the returns that the value is trained on, in [0, 1]; 1: Monte Carlo returns (VC-PPO)."""
    length_alpha: float = 0.0
    """Above 0: lambda_actor = 1 - 1 / (length_alpha · tokens of the completion), at least 0 (VAPO: 0.05); 0:
    lambda_actor is fixed."""
    bootstrap: bool = True
    """Add V(s_T) after a truncated episode. Turn it off if the reward at the limit is complete: the limit then belongs
    to the MDP, and V(s_T) would come on top of the full reward."""


@dataclass(frozen=True)
class Trust:
    """The bound on how far one batch moves the policy."""

    kind: str = "none"
    """none: no bound; clip: PPO's minimum of clipped and unclipped gain; dual_clip: clip with a second bound for
    negative advantages; stopgrad_cap: capped weight of log pi (CISPO); soft_gate: sigmoid of the ratio (SAPO);
    log_clip: clipped log-ratios in a geometric mean (GMPO); divergence_mask: no gradient for tokens far from old
    (DPPO); or a custom one by name or file.py:function."""
    low: float = 0.2
    """Distance of the ratio's floor from 1: the floor is 1 - low; 1: no floor. For log_clip the log-ratio's floor is
    -low."""
    high: float = 0.2
    """Distance of the ratio's ceiling from 1: the ceiling is 1 + high. For log_clip the log-ratio's ceiling is
    +high."""
    dual: float = 3.0
    """dual_clip: the ratio ceiling for negative advantages; above 1 + high."""
    tau_pos: float = 1.0
    """soft_gate: temperature for positive advantages."""
    tau_neg: float = 1.05
    """soft_gate: temperature for the other advantages."""
    divergence: Literal["tv", "kl"] = "tv"
    """divergence_mask: distance of pi and old on two outcomes, this token or any other; tv: total variation; kl: KL in
    nats."""
    delta: float = 0.15
    """divergence_mask: a token with a larger divergence has no gradient away from the old policy."""


@dataclass(frozen=True)
class KL:
    """The KL penalty towards the reference policy."""

    where: Literal["none", "reward", "loss"] = "none"
    """none: no penalty; reward: coef · estimate is subtracted from the reward of each token; loss: it is added to the
    loss, with gradient."""
    coef: float = 0.05
    """Coefficient beta of the penalty, 0 or more; its starting value if target is above 0."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of KL(pi‖ref) from sampled tokens. k1: log pi - log ref; k2: k1²/2; k3: exp(-k1) + k1 - 1, which is
    never negative."""
    level: Literal["token", "sequence"] = "token"
    """token: one estimate per token, summed; sequence: one estimate of the sequence's log-ratio."""
    importance: Literal["none", "token", "sequence", "geomean"] = "none"
    """Ratio pi/old, with its gradient, that multiplies the estimate in the loss. none: no factor; token: the token's
    ratio; sequence: the product over the sequence; geomean: its geometric mean, as TRL uses at sequence level."""
    target: float = 0.0
    """Above 0: beta is adapted so that the KL stays near this many nats per completion; 0: beta is constant."""
    horizon: int = 10_000
    """Number of samples over which beta adapts: a step of n samples changes it by at most a share 0.2 · n / horizon."""


@dataclass(frozen=True)
class Value:
    """The critic."""

    kind: Literal["none", "head", "model"] = "none"
    """none: no critic; head: a head on the policy's body; model: a second body, initialized as a copy of the policy's,
    without shared trained weights."""
    coef: float = 0.1
    """Factor of the value loss ½ (V - R)², averaged over tokens; 0 or more."""
    clip: float = 0.0
    """Distance from the value at rollout beyond which a value has no gradient towards the return; 0: no clip."""
    pretrain_steps: int = 0
    """Number of first steps in which only the value is trained (VC-PPO): its head or model changes, not the policy's
    body; 0: none."""
    lr: float = 0.0
    """Learning rate of the head or model, on the policy's schedule; 0: the policy's learning rate."""


@dataclass(frozen=True)
class OffPolicy:
    """The correction for a sampler whose probabilities differ from the learner's."""

    kind: Literal["none", "tis", "mis", "opsm"] = "none"
    """Factor of the policy term. none: 1; tis: min(w, high); mis: w if low <= w <= high, else 0; opsm: 0 for sequences
    with A < 0 whose mean log-ratio of sampler to learner is above delta, else 1."""
    level: Literal["token", "sequence"] = "token"
    """Level of w = pi_old / pi_sampler. token: of each token; sequence: the product over the sequence."""
    low: float = 0.5
    """mis: smallest weight w that is kept; at most high."""
    high: float = 2.0
    """tis: largest weight, at which w is truncated; mis: largest weight that is kept; above 0."""
    delta: float = 0.1
    """opsm: largest mean of log pi_sampler - log pi over a sequence's tokens, in nats, that is kept for A < 0."""


@dataclass(frozen=True)
class Filter:
    """The samples that enter the loss, and the penalty on overlong samples."""

    dynamic_sampling: bool = False
    """Leave groups of equal rewards out of the loss; the rollout draws others for them, up to rollout.max_draws."""
    drop_truncated: bool = False
    """Leave truncated samples out of the loss; the baseline includes them."""
    overlong: float = 0.0
    """Last share of the token limit L_max, in [0, 1), over which the length penalty grows from 0 to overlong_penalty
    (DAPO: 0.2); 0: no penalty."""
    overlong_penalty: float = 1.0
    """Reward that is subtracted from a completion of L_max tokens."""


@dataclass(frozen=True)
class Regularizer:
    """Terms that are added to the policy loss."""

    entropy_coef: float = 0.0
    """Factor of the policy's entropy per token, in nats, which is subtracted from the loss; 0: no bonus."""
    nll_coef: float = 0.0
    """Factor of the mean of -log pi over the tokens of samples whose reward is above nll_above (VAPO: 0.1); 0: no such
    term."""
    nll_above: float = 0.0
    """Environment reward above which a sample enters the term of nll_coef."""


@dataclass(frozen=True)
class Objective:
    """One value per axis. `Objective()` is the plain policy gradient: E[R · grad log pi(completion)]."""

    baseline: str = "none"
    """Reward that is subtracted from each sample's. none: 0; ema: moving average over steps; batch_mean: mean of the
    step; value: the critic's; greedy: of a greedy completion of the same prompt (ReMax); group_mean: mean of the
    prompt's samples; leave_one_out: mean of its other samples; length_weighted_group_mean: group_mean with weights by
    length (OPO); or a custom one by name or file.py:function."""
    scale: Literal["none", "group_std", "batch_std", "whiten", "group_mean"] = "none"
    """Number that the advantage is divided by. none: 1; group_std: standard deviation of the prompt's returns;
    batch_std: of the step's returns; whiten: of the step's token advantages, after their mean is subtracted;
    group_mean: mean return of the prompt (MaxRL)."""
    credit: Credit = field(default_factory=Credit)
    """The rewards that each token is credited with."""
    ratio: Literal["none", "token", "sequence_product", "sequence_geomean"] = "none"
    """Importance ratio pi/old. none: no ratio, the gradient of log pi · A; token: of each token; sequence_product: the
    product over the sequence; sequence_geomean: its geometric mean (GSPO)."""
    trust: Trust = field(default_factory=Trust)
    """The bound on how far one batch moves the policy."""
    aggregation: Literal["sequence_sum", "sequence_mean", "token_global", "constant"] = "sequence_sum"
    """Sum of token losses, and its divisor. sequence_sum: sum / number of sequences; sequence_mean: mean over the
    tokens of a sequence, then over sequences (GRPO); token_global: sum / number of tokens (DAPO); constant: sum /
    (sequences · L_max) (Dr. GRPO)."""
    kl: KL = field(default_factory=KL)
    """The KL penalty towards the reference policy."""
    value: Value = field(default_factory=Value)
    """The critic."""
    off_policy: OffPolicy = field(default_factory=OffPolicy)
    """The correction for a sampler whose probabilities differ from the learner's."""
    filter: Filter = field(default_factory=Filter)
    """The samples that enter the loss, and the penalty on overlong samples."""
    regularizer: Regularizer = field(default_factory=Regularizer)
    """Terms that are added to the policy loss."""
    loss: str = "surrogate"
    """surrogate: defined by ratio, trust and off_policy; dpo, ipo and simpo: of pairs of completions; kto: of labeled
    completions; or a custom one by name or file.py:function."""
    preference: Preference = field(default_factory=Preference)
    """The settings of the losses dpo, ipo, kto and simpo."""
    advantage: str = UNCHANGED
    """Function of your own that replaces or transforms the advantages, by name or file.py:function; on the command line
    also --advantage. none: they stay as credit, baseline and scale make them."""
    ema_decay: float = 0.9
    """Decay of the ema baseline per step, in [0, 1): ema = decay · ema + (1 - decay) · mean return."""
    scale_eps: float = 1e-4
    """Number that is added to the standard deviation of scale group_std, batch_std and whiten before the division."""

    @property
    def needs_reference(self) -> bool:
        """Whether log-probs of the frozen reference are used."""
        return self.kl.where != "none"

    @property
    def needs_values(self) -> bool:
        """Whether a critic is used and trained."""
        return self.value.kind != "none"

    @property
    def needs_greedy(self) -> bool:
        """Whether each prompt needs the reward of one greedy completion."""
        return self.baseline == "greedy"

    @property
    def needs_group(self) -> bool:
        """Whether several samples of one prompt are compared."""
        return (
            self.baseline in GROUP_BASELINES
            or self.scale in ("group_std", "group_mean")
            or self.filter.dynamic_sampling
        )

    @property
    def needs_varied_rewards(self) -> bool:
        """Whether a built-in baseline or scale leaves no advantage if each sample has the same reward."""
        return self.needs_group or self.baseline in ("ema", "batch_mean", "greedy") or self.scale != "none"

    @property
    def needs_entropy(self) -> bool:
        """Whether the entropy of the policy enters the loss, with gradient."""
        return self.regularizer.entropy_coef != 0.0

    @property
    def is_preference(self) -> bool:
        """Whether the loss learns from preferences, of pairs or of single completions, and not from rewards."""
        return self.loss in preference_settings.READS

    @property
    def needs_pairs(self) -> bool:
        """Whether the rows of a batch are pairs: two rows per group, one with the larger reward."""
        return self.is_preference and not self.needs_reference_point

    @property
    def needs_reference_point(self) -> bool:
        """Whether the loss compares log-ratios with the policy's KL to the reference, z0 (KTO)."""
        return self.loss == "kto"

    @property
    def reuses(self) -> bool:
        """Whether a batch may be used for several updates: a ratio or a custom loss accounts for the changed policy."""
        return self.ratio != "none" or self.loss != "surrogate"

    def validate(self, *, group_size: int | None = None) -> None:
        """Check every value and combination.

        Args:
            group_size: samples per prompt; None leaves out the checks that depend on it.

        Raises:
            UserError: a value is unknown or out of range, or a combination is impossible or explodes; the message names
                the reason and the fix.
        """
        check_fields(self, "objective.")
        check_functions(self.baseline, self.trust.kind, self.loss, self.advantage)
        axes, defaults = flatten(asdict(self)), flatten(asdict(Objective()))
        for message in preference_settings.refusals(axes, defaults, group_size):
            raise UserError(message)
        for refused, message in _combinations(self, group_size):
            if refused:
                raise UserError(message)
        _check_ranges(self)
        preference_settings.check_ranges(self.preference)


def _combinations(o: Objective, group_size: int | None) -> list[tuple[bool, str]]:
    """Return (whether it applies, message) of each combination that is refused."""
    c, t, k = o.credit, o.trust, o.kl
    return [
        (
            o.needs_group and group_size == 1,
            f"baseline {o.baseline} with scale {o.scale} compares the samples of a prompt, and group_size is 1, so "
            "every advantage would be 0; use --rollout.group-size 2 or more, or baseline ema",
        ),
        (
            o.baseline == "leave_one_out" and o.scale in ("group_std", "group_mean"),
            f"baseline leave_one_out with scale {o.scale} explodes if one sample of a group differs; use baseline "
            "group_mean with it, or scale none",
        ),
        (
            c.kind == "gae" and not o.needs_values,
            "credit gae needs values; use --objective.value.kind head or model, or credit reward_to_go",
        ),
        (
            c.kind == "gae" and o.baseline != "value",
            f"credit gae has the value as its baseline: expected baseline value, got '{o.baseline}'; use "
            "--objective.baseline value",
        ),
        (
            o.baseline == "value" and not o.needs_values,
            "baseline value needs values; use --objective.value.kind head or model",
        ),
        (
            o.needs_values and o.baseline != "value",
            f"a value is trained and baseline {o.baseline} never uses it; use --objective.baseline value, or "
            "--objective.value.kind none",
        ),
        (
            c.kind == "gae" and o.scale in ("group_std", "group_mean", "batch_std"),
            f"scale {o.scale} divides by a statistic of episode returns, and gae advantages are per token; use scale "
            "whiten or none",
        ),
        (
            o.scale == "group_mean" and o.baseline not in ("group_mean", "none"),
            f"scale group_mean is MaxRL's (r - m)/m and goes with baseline group_mean or none, got '{o.baseline}'; use "
            "--objective.baseline group_mean",
        ),
        (
            o.ratio == "none" and t.kind in BUILT_IN_TRUSTS and t.kind != "none" and o.loss == "surrogate",
            f"trust {t.kind} bounds a ratio, and ratio is none; use --objective.ratio token",
        ),
        (
            t.kind == "log_clip" and o.ratio != "sequence_geomean",
            "trust log_clip clips the token log-ratios inside a geometric mean; use --objective.ratio sequence_geomean",
        ),
        (
            t.kind == "divergence_mask" and o.ratio not in ("token", "none"),
            "trust divergence_mask compares the probabilities of tokens; use --objective.ratio token",
        ),
        (
            o.ratio == "sequence_product" and o.aggregation != "sequence_mean",
            f"ratio sequence_product is one number per sequence; aggregation {o.aggregation} would count it once per "
            "token; use --objective.aggregation sequence_mean",
        ),
        (
            k.importance != "none" and k.where != "loss",
            "kl.importance weighs the estimate in the loss; use --objective.kl.where loss, or kl.importance none",
        ),
        (
            k.target > 0 and k.where == "none",
            "kl.target adapts a coefficient that is not used; use --objective.kl.where reward or loss",
        ),
        (
            o.value.pretrain_steps > 0 and not o.needs_values,
            f"value.pretrain_steps is {o.value.pretrain_steps}, and no value is trained; use 0, or "
            "--objective.value.kind head or model",
        ),
    ]


def _check_ranges(o: Objective) -> None:
    """Raise UserError for a number outside its interval."""
    c, t, k, v, f = o.credit, o.trust, o.kl, o.value, o.off_policy
    check_range(
        "objective.kl.coef", k.coef, least=0, fix="use 0 or more: below 0 it pushes the policy away from the reference"
    )
    check_range("objective.kl.target", k.target, least=0)
    check_range("objective.kl.horizon", k.horizon, least=1)
    check_range("objective.credit.gamma", c.gamma, least=0, most=1)
    check_range("objective.credit.lambda_actor", c.lambda_actor, least=0, most=1)
    check_range("objective.credit.lambda_critic", c.lambda_critic, least=0, most=1)
    check_range("objective.credit.length_alpha", c.length_alpha, least=0, fix="use 0 to turn it off")
    check_range("objective.trust.low", t.low, least=0)
    check_range("objective.trust.high", t.high, least=0)
    if t.kind == "dual_clip":
        check_range("objective.trust.dual", t.dual, above=1 + t.high, fix="use more than 1 + trust.high")
    check_range("objective.trust.tau_pos", t.tau_pos, above=0)
    check_range("objective.trust.tau_neg", t.tau_neg, above=0)
    check_range("objective.off_policy.high", f.high, above=0)
    check_range("objective.off_policy.low", f.low, most=f.high, fix="use at most off_policy.high")
    check_range("objective.value.coef", v.coef, least=0)
    check_range("objective.value.clip", v.clip, least=0)
    check_range("objective.value.pretrain_steps", v.pretrain_steps, least=0)
    check_range("objective.value.lr", v.lr, least=0)
    check_range(
        "objective.filter.overlong",
        o.filter.overlong,
        least=0,
        below=1,
        fix="use a share of the token limit",
    )
    check_range("objective.ema_decay", o.ema_decay, least=0, below=1)
    check_range("objective.scale_eps", o.scale_eps, least=0)

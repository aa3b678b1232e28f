"""What a study found, as plain data: the schema of results.json, which tables, pictures and reports are made from.

Everything that a reader is shown stands in here; whoever draws a report computes nothing. A missing number is null.
Labels of algorithms and environments are the keys throughout, in the order of `Results.algorithms` and
`Results.environments`; lists that run over seeds follow `Results.seeds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMAT = 1
BUDGETS = ("samples", "tokens", "updates", "seconds")
"""What a curve is drawn against: samples drawn, tokens generated, optimizer steps, seconds of computing."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval; `method` names the interval, `level` is its nominal coverage."""

    value: float | None
    low: float | None
    high: float | None
    method: str = ""
    level: float = 0.95


@dataclass(frozen=True)
class Curve:
    """One seed's course, point for point; the first point is the start, with every budget 0."""

    step: list[int]
    samples: list[float]
    tokens: list[float]
    updates: list[float]
    seconds: list[float]
    reward: list[float | None]
    kl: list[float | None]
    """Nats per completion, to the start."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the reward: between seeds, between prompts, and of what is left (sampling noise and
    what a seed does to single prompts), from the two-way layout seeds × prompts."""

    seeds: float | None
    prompts: float | None
    rest: float | None


@dataclass(frozen=True)
class ToThreshold:
    """How much of a budget it took until the curve reached the threshold.

    Attributes:
        spent: per seed; where not reached, what was spent in vain.
        reached: per seed; false = right-censored.
        median: Kaplan-Meier median; None when fewer than half got there.
        restricted_mean: mean budget until the threshold, or until the smallest budget that all seeds had (area under
            the Kaplan-Meier curve), with its CI; that budget itself, and no CI, where no seed got there
            by then.
    """

    spent: list[float]
    reached: list[bool]
    median: float | None
    restricted_mean: Estimate

    @property
    def beyond(self) -> float | None:
        """The budget that all seeds had, where none of them reached the threshold within it; None where one did."""
        until = self.restricted_mean.value
        inside = (got and until is not None and s <= until for s, got in zip(self.spent, self.reached, strict=True))
        return None if any(inside) else until


@dataclass(frozen=True)
class Profile:
    """Performance profile: the share of seeds whose final reward is above tau, with a pointwise 95 % band."""

    tau: list[float]
    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class AlgorithmResult:
    """One algorithm on one environment.

    Attributes:
        final: held-out reward [seeds][prompts], mean over the completions of a prompt; a failed seed has its start's.
        start: the same before training.
        failed: per seed, true when the cell crashed.
        mean: mean over seeds and prompts of `final`.
        iqm: interquartile mean over seeds of the mean over prompts.
        median: median over seeds of the mean over prompts.
        gain: final − start, paired.
        spread: seed noise and evaluation noise kept apart.
        metrics: other held-out metrics after training (reward components, length, kl, fluency, truncated), mean.
        curves: one per seed; a failed seed keeps the points it has.
        auc: budget -> mean height of the curve over the budget that all cells had (area / budget).
        auc_seeds: budget -> the same per seed.
        to_threshold: budget -> how much it took to reach the environment's threshold.
        profile: performance profile.
        at_equal_kl: reward at the KL that every run of the environment reached (`EnvResult.kl_level`), on the way; over
            the seeds that did not fail, since one that failed has no such point.
        at_equal_kl_seeds: the same per seed.
    """

    final: list[list[float | None]]
    start: list[list[float | None]]
    failed: list[bool]
    mean: Estimate
    iqm: Estimate
    median: Estimate
    gain: Estimate
    spread: Spread
    metrics: dict[str, Estimate]
    curves: list[Curve]
    auc: dict[str, Estimate]
    auc_seeds: dict[str, list[float | None]]
    to_threshold: dict[str, ToThreshold]
    profile: Profile
    at_equal_kl: Estimate | None = None
    at_equal_kl_seeds: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """`a` against `b` on one environment, seed against seed.

    Attributes:
        difference: final reward, a − b.
        p: two-sided, of no difference.
        p_holm: after Holm's correction over all pairs and environments of the study.
        probability_of_improvement: that a seed of `a` ends above a seed of `b`; ties count half.
        detectable: smallest true difference that this study had 80 % power to claim; None where the differences of
            seeds and prompts do not vary, and for fewer seeds than a claim takes.
        winner: label, or None when none may be named.
        identical: both ended with the same reward on every prompt at every seed.
        failed: those of the two of which no cell finished: there is no difference to speak of, no test and no winner.
        auc: budget -> difference of `auc`, a − b.
        at_equal_kl: difference of `at_equal_kl`, a − b.
        threshold_p: budget -> p of the log-rank test on budget to threshold, not corrected.
        sentence: what the data support, in words.
    """

    a: str
    b: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    probability_of_improvement: Estimate
    detectable: float | None
    winner: str | None
    auc: dict[str, Estimate]
    at_equal_kl: Estimate | None
    threshold_p: dict[str, float | None]
    sentence: str
    identical: bool = False
    failed: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """In a word or two: who failed, that both are the same, or who won; empty where nothing may be said."""
        if self.failed:
            return f"{' and '.join(self.failed)} failed"
        return "identical results" if self.identical else self.winner or ""


@dataclass(frozen=True)
class Sample:
    """One held-out prompt and what became of it, algorithm for algorithm, at one seed."""

    prompt: str
    seed: int
    start: str
    completions: dict[str, str]
    rewards: dict[str, float | None]


@dataclass(frozen=True)
class EnvResult:
    """One environment.

    Attributes:
        steps: of every run.
        samples_per_step: of every run.
        prompts: the held-out prompts, the same for all.
        split: the split they are from.
        curve: what the curves show: "held-out reward" or "reward of the training samples".
        threshold: reward that counts as reached.
        threshold_rule: how it was chosen, in words.
        kl_level: nats at which algorithms are compared at equal KL; None when there is no common level.
        reward_scale: what 0 and 1 stand for in `Aggregate`: (mean start, best seed of the study).
        samples: completions side by side.
    """

    steps: int
    samples_per_step: int
    prompts: list[str]
    split: str
    curve: str
    threshold: float | None
    threshold_rule: str
    kl_level: float | None
    reward_scale: tuple[float | None, float | None]
    algorithms: dict[str, AlgorithmResult]
    pairs: list[Pair]
    samples: list[Sample]


@dataclass(frozen=True)
class Aggregate:
    """Over all environments, each rescaled so that 0 is its start and 1 the best seed of the study."""

    mean: dict[str, Estimate]
    iqm: dict[str, Estimate]
    median: dict[str, Estimate]
    profile: dict[str, Profile]


@dataclass(frozen=True)
class Failure:
    """A cell that crashed, or a run that was left out."""

    env: str
    algorithm: str
    seed: int
    folder: str
    reason: str


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same for all: an axis of the objective, or anything else."""

    key: str
    axis: bool
    values: dict[str, str]
    """Algorithm -> value, as text; with an environment's name in front where the value depends on it."""


@dataclass(frozen=True)
class Tuning:
    """The search that an algorithm was given on an environment before it was compared."""

    env: str
    algorithm: str
    trials: int
    pruned: int
    failed: int
    seed: int
    search: dict[str, str]
    best: dict[str, str]
    best_value: float | None
    sensitivity: float | None
    """Share of the trials within 95 % of the best improvement."""


@dataclass(frozen=True)
class Manifest:
    """Where the numbers come from."""

    command: str
    created: str
    """ISO 8601, UTC."""
    policy: str
    versions: dict[str, str]
    machine: dict[str, str]
    commit: str | None
    fingerprint: str
    """sha256 of all cells' settings: two studies with the same one asked the same question."""
    seconds: float
    """Computing time of all cells together."""


@dataclass(frozen=True, repr=False)
class Results:
    """A study's findings. `verdict` is two or three plain sentences and comes first everywhere."""

    title: str
    verdict: list[str]
    warnings: list[str]
    algorithms: list[str]
    seeds: list[int]
    environments: dict[str, EnvResult]
    aggregate: Aggregate | None
    differences: list[SettingDifference]
    failures: list[Failure]
    excluded: list[Failure]
    tuning: list[Tuning]
    manifest: Manifest
    format: int = field(default=FORMAT)

    def __repr__(self) -> str:
        return "\n".join(self.verdict)

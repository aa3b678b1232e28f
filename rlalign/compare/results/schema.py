"""The schema of results.json: the results of a study as plain data.

Tables, pictures and reports are drawn from these classes alone and compute nothing. The names of the fields are the
keys of the file. A missing number is null. Keys of dictionaries are labels of algorithms and environments, in the order
of `Results.algorithms` and `Results.environments`. Lists over seeds follow `Results.seeds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMAT = 1
BUDGETS = ("samples", "tokens", "updates", "seconds")
"""Horizontal axes of a learning curve: samples drawn, tokens generated, optimizer steps, seconds of computing."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: the number; None if it is missing.
        low: lower bound of the interval; None if there is no interval, as for fewer seeds than it needs.
        high: upper bound.
        method: name of the interval, in words.
        level: its nominal coverage.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str = ""
    level: float = 0.95


@dataclass(frozen=True)
class Curve:
    """The learning curve of one seed, point by point. The first point is the initial policy, with every budget 0.

    Attributes:
        step: training steps.
        samples: completions drawn until then.
        tokens: tokens generated until then.
        updates: optimizer steps until then.
        seconds: seconds of computing until then.
        reward: mean reward, see `EnvResult.curve`.
        kl: KL divergence to the initial policy, nats per completion; None if it was not measured.
    """

    step: list[int]
    samples: list[float]
    tokens: list[float]
    updates: list[float]
    seconds: list[float]
    reward: list[float | None]
    kl: list[float | None]


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the reward, from the two-way layout seeds × prompts; None if it does not determine them.

    Attributes:
        seeds: between seeds.
        prompts: between prompts.
        rest: residual: sampling noise, and effects of a seed on single prompts.
    """

    seeds: float | None
    prompts: float | None
    rest: float | None


@dataclass(frozen=True)
class ToThreshold:
    """Budget until the learning curve reached the threshold.

    Attributes:
        spent: per seed; the total budget of a seed that did not reach it.
        reached: per seed; false = right-censored.
        median: Kaplan-Meier median; None if fewer than half of the seeds reached it.
        restricted_mean: mean of the budget until the threshold, cut at the smallest budget that all seeds had (area
            under the Kaplan-Meier curve), with its CI. If no seed reached the threshold within that budget, it is that
            budget and has no CI.
    """

    spent: list[float]
    reached: list[bool]
    median: float | None
    restricted_mean: Estimate

    @property
    def beyond(self) -> float | None:
        """The budget that all seeds had, if none of them reached the threshold within it; else None."""
        until = self.restricted_mean.value
        for spent, reached in zip(self.spent, self.reached, strict=True):
            if reached and until is not None and spent <= until:
                return None
        return until


@dataclass(frozen=True)
class Profile:
    """Performance profile: the share of seeds whose final reward is above tau, with a pointwise 95 % band.

    Attributes:
        tau: thresholds, ascending.
        share: share of seeds above each threshold.
        low: lower bound of the band at each threshold.
        high: upper bound of the band at each threshold.
    """

    tau: list[float]
    share: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class AlgorithmResult:
    """One algorithm on one environment.

    Attributes:
        final: held-out reward [seeds][prompts], mean over completions; of a failed seed, that of the initial policy.
        start: the same before training.
        failed: per seed, true if the cell crashed.
        mean: mean over seeds and prompts of `final`.
        iqm: interquartile mean over seeds of the mean over prompts.
        median: median over seeds of the mean over prompts.
        gain: final − start, paired.
        spread: standard deviations between seeds, between prompts, and of the residual.
        metrics: metric -> mean after training, for the other held-out metrics (reward components, length, kl, fluency,
            truncated).
        curves: one per seed; a failed seed keeps its points until the failure.
        auc: budget -> normalized area under the learning curve, over the budget that all cells had (area / budget).
        auc_seeds: budget -> the same per seed.
        to_threshold: budget -> amount until the environment's threshold was reached.
        profile: performance profile.
        at_equal_kl: reward where the learning curve first reached `EnvResult.kl_level`; mean over seeds that have it.
        at_equal_kl_seeds: the same per seed.
        samples_per_answer: completions that one answer costs after training: n for best_of_n, else 1.
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
    samples_per_answer: int = 1


@dataclass(frozen=True)
class Pair:
    """Paired comparison of algorithms `a` and `b` on one environment, seed by seed.

    Attributes:
        a: label of the first algorithm.
        b: label of the second.
        difference: final reward, a − b.
        p: two-sided p-value of the hypothesis that the difference is 0.
        p_holm: p after Holm's correction over all pairs and environments of the study.
        probability_of_improvement: probability that a seed of `a` ends above a seed of `b`; ties count half.
        detectable: smallest true difference that this study had 80 % power to claim; None if the differences of seeds
            and prompts do not vary, or if there are too few seeds for a claim.
        winner: label of the winner; None if no difference can be claimed.
        auc: budget -> difference of `auc`, a − b.
        at_equal_kl: difference of `at_equal_kl`, a − b.
        threshold_p: budget -> p-value of the log-rank test on budget to threshold, not corrected.
        sentence: the result in words.
        identical: both ended with the same reward on every prompt at every seed.
        failed: labels of algorithms without any finished cell; there is then no difference, no test and no winner.
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
        """The result in a few words: the failed algorithms, `identical results`, or the winner; empty for no claim."""
        if self.failed:
            return f"{' and '.join(self.failed)} failed"
        return "identical results" if self.identical else self.winner or ""


@dataclass(frozen=True)
class Sample:
    """Completions of one held-out prompt at one seed.

    Attributes:
        prompt: the prompt.
        seed: the seed.
        start: completion before training.
        completions: algorithm -> completion after training.
        rewards: algorithm -> its reward.
    """

    prompt: str
    seed: int
    start: str
    completions: dict[str, str]
    rewards: dict[str, float | None]


@dataclass(frozen=True)
class EnvResult:
    """One environment.

    Attributes:
        steps: training steps of every run.
        samples_per_step: completions per step of every run.
        prompts: the held-out prompts, the same for all runs.
        split: the split of the prompts.
        curve: reward that the learning curves show: "held-out reward" or "reward of the training samples".
        threshold: reward that counts as reached.
        threshold_rule: how it was chosen, in words.
        kl_level: KL in nats at which algorithms are compared; None if the runs have no common level.
        reward_scale: rewards that `Aggregate` maps to 0 and 1: (mean of the initial policy, best seed of the study).
        algorithms: label -> result.
        pairs: all pairs of algorithms.
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
    """Results over all environments, rescaled per environment: 0 is the initial policy, 1 the study's best seed.

    Attributes:
        mean: algorithm -> mean of the rescaled final rewards.
        iqm: algorithm -> their interquartile mean.
        median: algorithm -> their median.
        profile: algorithm -> their performance profile.
    """

    mean: dict[str, Estimate]
    iqm: dict[str, Estimate]
    median: dict[str, Estimate]
    profile: dict[str, Profile]


@dataclass(frozen=True)
class Failure:
    """A cell that crashed, or a run that was left out.

    Attributes:
        env: label of the environment.
        algorithm: label of the algorithm.
        seed: seed of the run.
        folder: run folder.
        reason: the error message, or why the run was left out.
    """

    env: str
    algorithm: str
    seed: int
    folder: str
    reason: str


@dataclass(frozen=True)
class SettingDifference:
    """A setting that differs between algorithms.

    Attributes:
        key: dotted name of the setting.
        axis: whether the setting belongs to the objective.
        values: algorithm -> value as text; prefixed by the environment if the value depends on it.
    """

    key: str
    axis: bool
    values: dict[str, str]


@dataclass(frozen=True)
class Tuning:
    """The search for an algorithm's settings on an environment that preceded the comparison.

    Attributes:
        env: label of the environment.
        algorithm: label of the algorithm.
        trials: number of trials, pruned and failed ones included.
        pruned: number of trials that were stopped early.
        failed: number of trials that failed.
        seed: seed of the trials.
        search: setting -> space, such as `log:1e-4:1e-2`.
        best: setting -> best value, as text.
        best_value: mean held-out reward of the best trial.
        sensitivity: share of the trials whose improvement is within 95 % of the best one's.
    """

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


@dataclass(frozen=True)
class Manifest:
    """Provenance of the results.

    Attributes:
        command: the command line.
        created: time of the analysis, ISO 8601, UTC.
        policy: policies of the cells.
        versions: package -> version.
        machine: processor, cores, device, Python, operating system.
        commit: commit of the source; None for an installed package.
        fingerprint: sha256 of the settings of all cells; two studies with the same one have the same cells.
        seconds: computing time of all cells together.
    """

    command: str
    created: str
    policy: str
    versions: dict[str, str]
    machine: dict[str, str]
    commit: str | None
    fingerprint: str
    seconds: float


@dataclass(frozen=True, repr=False)
class Results:
    """The results of a study.

    Attributes:
        title: algorithms and environments.
        verdict: two or three plain sentences, which come first in every output.
        warnings: limits of the study, such as too few seeds for a claim; one sentence each.
        algorithms: labels, in the order of all tables.
        seeds: seeds; lists over seeds follow this order.
        environments: label -> results.
        aggregate: results over all environments; None for fewer than two.
        differences: settings that differ between algorithms.
        failures: cells that crashed.
        excluded: runs that were left out on request.
        tuning: searches that preceded the comparison.
        manifest: provenance.
        format: version of the schema.
    """

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

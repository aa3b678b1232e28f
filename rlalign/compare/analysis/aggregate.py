"""Results over all environments: rewards are rescaled, pooled, and resampled within each environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlalign.compare.analysis.estimates import BOOTSTRAP, as_array, estimate
from rlalign.compare.analysis.intervals import bootstrap, iqm, profile
from rlalign.compare.results.schema import Aggregate, EnvResult, Profile
from rlalign.types import FloatArray

PROFILE_THRESHOLDS = 41  # points of a performance profile


def aggregate(environments: Mapping[str, EnvResult], algorithms: Sequence[str]) -> Aggregate | None:
    """Return the results over environments, each rescaled: 0 is the initial policy, 1 the best seed.

    Environments on which no seed ended above the initial policy are left out. None if fewer than two are left.

    Args:
        environments: label -> results.
        algorithms: labels; each has a result on every environment.
    """
    scales = {name: env.reward_scale for name, env in environments.items()}
    usable = [n for n, (low, high) in scales.items() if low is not None and high is not None and high > low]
    if len(usable) < 2:
        return None

    def rescaled(algorithm: str) -> list[FloatArray]:
        strata = []
        for name in usable:
            low, high = scales[name]
            assert low is not None
            assert high is not None
            rewards = np.nanmean(as_array(environments[name].algorithms[algorithm].final), axis=1)
            strata.append((rewards - low) / (high - low))
        return strata

    strata_of = {algorithm: rescaled(algorithm) for algorithm in algorithms}
    lowest = min(float(scores.min()) for strata in strata_of.values() for scores in strata)
    taus = np.linspace(min(0.0, lowest), 1.0, PROFILE_THRESHOLDS)
    statistics: dict[str, Callable[[FloatArray], FloatArray]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "iqm": iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    estimates = {}
    for name, statistic in statistics.items():
        estimates[name] = {
            algorithm: estimate(bootstrap(strata, statistic, smooth=name == "median"), f"stratified {BOOTSTRAP}")
            for algorithm, strata in strata_of.items()
        }
    profiles = {algorithm: profile_of(np.concatenate(strata), taus) for algorithm, strata in strata_of.items()}
    return Aggregate(mean=estimates["mean"], iqm=estimates["iqm"], median=estimates["median"], profile=profiles)


def profile_of(scores: FloatArray, taus: FloatArray) -> Profile:
    """Return the performance profile of scores [n] at thresholds [T]."""
    share, low, high = profile(scores, taus)
    return Profile(taus.tolist(), share.tolist(), low.tolist(), high.tolist())

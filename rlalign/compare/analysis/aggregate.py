"""All environments together: rewards rescaled, pooled, resampled within each environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlalign.compare.analysis import statistics as st
from rlalign.compare.analysis.estimates import BOOTSTRAP, as_array, estimate
from rlalign.compare.results.schema import Aggregate, EnvResult, Profile
from rlalign.types import FloatArray

TAUS = 41  # thresholds of a performance profile


def aggregate(environments: Mapping[str, EnvResult], algorithms: Sequence[str]) -> Aggregate | None:
    """Over environments, rescaled to the start and the best seed; None for fewer than two that can be rescaled."""
    scales = {n: e.reward_scale for n, e in environments.items()}
    usable = [n for n, (low, high) in scales.items() if low is not None and high is not None and high > low]
    if len(usable) < 2:
        return None

    def scores(algorithm: str) -> list[FloatArray]:
        found = []
        for name in usable:
            low, high = scales[name]
            assert low is not None
            assert high is not None
            rewards = np.nanmean(as_array(environments[name].algorithms[algorithm].final), axis=1)
            found.append((rewards - low) / (high - low))
        return found

    strata = {a: scores(a) for a in algorithms}
    taus = np.linspace(min(0.0, *(float(x.min()) for s in strata.values() for x in s)), 1.0, TAUS)
    statistics: dict[str, Callable[[FloatArray], FloatArray]] = {
        "mean": lambda x: np.mean(x, axis=-1),
        "iqm": st.iqm,
        "median": lambda x: np.median(x, axis=-1),
    }
    made = {
        name: {
            a: estimate(st.bootstrap(strata[a], f, smooth=name == "median"), f"stratified {BOOTSTRAP}")
            for a in algorithms
        }
        for name, f in statistics.items()
    }
    profiles = {a: profile_of(np.concatenate(strata[a]), taus) for a in algorithms}
    return Aggregate(mean=made["mean"], iqm=made["iqm"], median=made["median"], profile=profiles)


def profile_of(scores: FloatArray, taus: FloatArray) -> Profile:
    """The performance profile of scores at some thresholds."""
    share, low, high = st.profile(scores, taus)
    return Profile(taus.tolist(), share.tolist(), low.tolist(), high.tolist())

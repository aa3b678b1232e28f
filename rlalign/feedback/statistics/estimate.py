"""An estimate with its interval, its method, and the numbers of prompts, people and votes behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from scipy import stats

LEVEL = 0.95
"""Level of all intervals."""
POWER = 0.8
"""Power at which a smallest detectable difference is stated."""
FEWEST_PEOPLE = 5
"""People below which the headline is the interval for this panel: two-way t intervals with 2 to 3 degrees of freedom
say hardly anything about a population."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of prompts (groups of near-duplicates), people and votes behind an estimate."""

    prompts: int
    people: int
    votes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its 95 % interval; NaN where the data determine none.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        detectable: smallest difference from a fixed value that a two-sided test of level 5 % finds with power 80 %, in
            the unit of the estimate: (t(0.975) + t(0.8)) · se.
        method: how value and interval are computed.
        source: paper of the method.
        prompts: number of clusters of prompts.
        people: number of people.
        votes: number of votes.
        level: of the interval.
        se: standard error of Student's t interval; NaN for others.
        df: its degrees of freedom.
        center: its middle, before bounds cut it off.
    """

    value: float
    low: float
    high: float
    detectable: float
    method: str
    source: str
    prompts: int
    people: int
    votes: int
    level: float = LEVEL
    se: float = math.nan
    df: float = math.nan
    center: float = math.nan

    def p(self, null: float) -> float:
        """Return the p-value of the two-sided t test of a value, which agrees with the interval; NaN without one."""
        if not self.se > 0:
            return math.nan
        return float(2 * stats.t.sf(abs(self.center - null) / self.se, self.df))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN and infinity become None."""
        values: dict[str, Any] = without_nan(asdict(self))
        del values["center"]
        return values


@dataclass(frozen=True, slots=True)
class TwoEstimates:
    """An estimate with both intervals.

    Attributes:
        panel: the interval for these annotators.
        population: the interval for the population of annotators; None for one annotator.
    """

    panel: Estimate
    population: Estimate | None

    @property
    def headline(self) -> Literal["panel", "population"]:
        """The interval that may stand in a headline: that of the population from `FEWEST_PEOPLE` people."""
        enough = self.population is not None and self.panel.people >= FEWEST_PEOPLE
        return "population" if enough else "panel"

    @property
    def main(self) -> Estimate:
        """The estimate of the headline."""
        return self.population if self.population is not None and self.headline == "population" else self.panel

    def to_json(self) -> dict[str, Any]:
        """Return both as JSON values, with the name of the headline."""
        return {
            "panel": self.panel.to_json(),
            "population": None if self.population is None else self.population.to_json(),
            "headline": self.headline,
        }


def t_estimate(
    value: float, se: float, df: float, counts: Counts, method: str, source: str, *, center: float | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:  # fmt: skip
    """Return an estimate with the interval of Student's t distribution.

    Args:
        value: the estimate.
        se: standard error.
        df: degrees of freedom; below 1 there is no interval.
        counts: numbers behind the estimate.
        method: how it is computed.
        source: paper of the method.
        center: of the interval; None: the value.
        bounds: smallest and largest possible value.
    """
    if not df >= 1 or not math.isfinite(se):
        nan = math.nan
        return Estimate(value, nan, nan, nan, method, source, counts.prompts, counts.people, counts.votes)
    quantile = t_quantile((1 + LEVEL) / 2, df)
    middle = value if center is None else center
    low = max(bounds[0], middle - quantile * se)
    high = min(bounds[1], middle + quantile * se)
    found = detectable(se, df)
    return Estimate(
        value, low, high, found, method, source, counts.prompts, counts.people, counts.votes,
        se=se, df=df, center=middle,
    )  # fmt: skip


@lru_cache(maxsize=1024)  # scipy takes 0.2 ms for each, and a summary needs a thousand
def t_quantile(probability: float, df: float) -> float:
    """Return a quantile of Student's t distribution; of the normal one for infinite degrees of freedom."""
    return float(stats.t.ppf(probability, df))


def detectable(se: float, df: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest difference that a two-sided t test finds with a given power: (t(1 − α/2) + t(power)) · se."""
    return (t_quantile((1 + level) / 2, df) + t_quantile(power, df)) * se


def wilson(right: float, number: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share.

    Source: Wilson (1927), J. American Statistical Association 22:209-212.

    Args:
        right: number of successes; a fraction for an effective number of observations.
        number: number of observations.
    """
    if number <= 0:
        return math.nan, math.nan
    z2 = float(stats.norm.ppf((1 + LEVEL) / 2)) ** 2
    share = right / number
    center = (share + z2 / (2 * number)) / (1 + z2 / number)
    half = math.sqrt(z2 * (share * (1 - share) / number + z2 / (4 * number**2))) / (1 + z2 / number)
    # rounding must not put a bound on the wrong side of the share
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))


def wilson_estimate(right: float, number: float, counts: Counts, method: str) -> Estimate:
    """Return a share with Wilson's interval; see `wilson`."""
    low, high = wilson(right, number)
    share = right / number if number > 0 else math.nan
    # the standard error at one half: the detectable difference must not be 0 at a share of 0 or 1
    found = detectable(0.5 / math.sqrt(number), math.inf) if number > 0 else math.nan
    source = "Wilson (1927), J. American Statistical Association 22:209-212"
    return Estimate(share, low, high, found, method, source, counts.prompts, counts.people, counts.votes)


def without_nan(value: Any) -> Any:
    """Return nested values in which NaN and infinity are None, as JSON needs it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return value

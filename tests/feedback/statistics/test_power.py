"""Sample sizes: by hand, inverse to the detectable difference, and correlations of drawn votes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from rlalign.feedback.statistics.judgments import WIN
from rlalign.feedback.statistics.power import (
    PRIOR,
    Design,
    Variability,
    detectable_difference,
    estimate_variability,
    required_people,
    required_prompts,
    standard_error,
)
from tests.feedback.statistics.conftest import draw, pairs


def test_standard_errors_by_hand() -> None:
    v = Variability(0.25, 0.2, 0.1, "")
    # all annotators judge each prompt: no chance of assignment
    assert standard_error(Design(100, 3, 3), v, "panel") ** 2 == pytest.approx(0.25 * (0.2 / 100 + 0.7 / 300))
    assert standard_error(Design(100, 3, 3), v, "population") ** 2 == pytest.approx(
        0.25 * (0.2 / 100 + 0.7 / 300 + 0.1 / 3)
    )
    # one of many annotators per prompt: votes are independent but for the population's part
    assert standard_error(Design(400, 10**6, 1), v, "panel") == pytest.approx(0.5 / 20, rel=1e-5)
    # more votes than people
    assert Design(10, 2, 5).votes == 20


def test_the_detectable_difference_has_the_stated_power() -> None:
    design = Design(300, 30, 3)
    for interval, df in (("panel", 299), ("population", 29)):
        found = detectable_difference(design, PRIOR, interval, power=0.9)  # type: ignore[arg-type]
        quantiles = stats.t.ppf(0.975, df) + stats.t.ppf(0.9, df)
        assert found == pytest.approx(quantiles * standard_error(design, PRIOR, interval))  # type: ignore[arg-type]
    assert detectable_difference(Design(300, 1, 1), PRIOR, "population") == math.inf
    more = dataclasses.replace(design, comparisons=6)
    assert detectable_difference(more, PRIOR, "panel") > detectable_difference(design, PRIOR, "panel")


def test_required_prompts_are_the_fewest() -> None:
    needed = required_prompts(0.05, 10, 3, PRIOR, "panel")
    assert needed is not None
    assert detectable_difference(Design(needed, 10, 3), PRIOR, "panel") <= 0.05
    assert detectable_difference(Design(needed - 1, 10, 3), PRIOR, "panel") > 0.05


def test_prompts_do_not_replace_people() -> None:
    assert required_prompts(0.05, 5, 3, PRIOR, "population") is None
    fewest = required_people(0.05, 3, PRIOR)
    assert fewest is not None
    assert required_prompts(0.05, fewest, 3, PRIOR, "population") is not None
    assert required_prompts(0.05, fewest - 1, 3, PRIOR, "population") is None
    assert required_people(0.001, 3, PRIOR, prompts=50) is None


def test_correlations_are_those_of_drawn_votes() -> None:
    """The prior's numbers come from these standard deviations: 1 between prompts, 0.6 between annotators."""
    votes = draw(0, 4000, strengths=(0.0, 0.0), people=300, ties=0.0, prompt_sd=1.0, person_sd=0.6)
    found = estimate_variability(votes)
    assert found.prompt == pytest.approx(PRIOR.prompt, abs=0.02)
    assert found.person == pytest.approx(PRIOR.person, abs=0.02)
    assert found.variance == pytest.approx(0.25, abs=0.002)
    plain = estimate_variability(draw(1, 2000, people=50))
    assert plain.prompt < 0.03
    assert plain.person < 0.02


def test_missing_correlations_are_those_of_the_prior() -> None:
    alone = pairs(np.random.default_rng(0).integers(0, 3, 50))  # one vote per prompt, one annotator
    found = estimate_variability(alone)
    assert found.prompt == PRIOR.prompt
    assert "prior for prompts" in found.origin
    assert estimate_variability(pairs([])) is PRIOR
    assert estimate_variability(pairs([WIN] * 10)).variance == PRIOR.variance

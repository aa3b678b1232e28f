"""Pairs of algorithms: paired differences, winners, Holm's correction over the study, and their sentences."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rlalign.compare.analysis.pairs import decide

PROMPTS = 8
START = 0.1


def test_the_winner_is_the_higher_and_its_interval_is_in_its_direction(decided: Any, noisy: Any) -> None:
    """Fails if the loser is named, or if the bounds are not reversed with the pair."""
    for names in (("high", "low"), ("low", "high")):
        rewards = {"high": noisy(0.9), "low": noisy(0.3, rng=1)}
        (pair,) = decided({name: rewards[name] for name in names})["e"].pairs
        assert pair.winner == "high"
        assert pair.sentence.startswith("high ended 0.6")
        low, high = re.findall(r"[+-]\d\.\d+", pair.sentence)
        assert 0 < float(low) < 0.6 < float(high)
        assert ((pair.difference.value or 0.0) > 0) == (names[0] == "high")


def test_holms_correction_runs_over_all_environments(decided: Any, noisy: Any) -> None:
    """Fails if p is not corrected, or is corrected within its environment alone."""
    seeds = 0.08 + 0.08 * np.array([-1.2, -0.8, 0.1, 0.3, 0.6, 1.0])
    close = {"a": np.repeat(0.5 + seeds[:, None], PROMPTS, 1), "b": np.full((6, PROMPTS), 0.5)}
    alone = decided(close, "one")
    (pair,) = alone["one"].pairs
    assert pair.p == pytest.approx(ttest_1samp(seeds, 0.0).pvalue)
    assert 0.025 < (pair.p or 1.0) < 0.05
    assert pair.winner == "a"
    both = decide({**alone, **decided({"a": noisy(0.5), "b": noisy(0.5, rng=1)}, "two")})
    assert both["one"].pairs[0].p_holm == pytest.approx(2 * (pair.p or 1.0))
    assert [p.winner for env in both.values() for p in env.pairs] == [None, None]
    assert both["one"].pairs[0].sentence.endswith("after Holm's correction: no claim.")


def test_five_seeds_are_enough_for_a_claim_and_four_are_not(decided: Any) -> None:
    rng = np.random.default_rng(0)
    for seeds, ending in ((5, "no claim."), (4, "4 seeds are too few to name a winner.")):
        same = {name: rng.normal(0.5, 0.2, (seeds, PROMPTS)) for name in ("a", "b")}
        (pair,) = decided(same)["e"].pairs
        assert pair.winner is None
        assert pair.sentence.endswith(ending)


def test_differences_are_paired_by_seed_and_prompt(decided: Any, noisy: Any) -> None:
    """Fails for unpaired differences: seeds and prompts differ far more than the algorithms."""
    common = np.linspace(-3, 3, 6)[:, None] + np.linspace(-1, 1, PROMPTS)
    (pair,) = decided({"a": common + noisy(0.2), "b": common + noisy(0.0, rng=1)})["e"].pairs
    assert pair.winner == "a"
    assert (pair.difference.high or 9.0) < 0.3


def test_one_failed_seed_does_not_prevent_the_comparison(decided: Any, noisy: Any) -> None:
    finals = noisy(0.5)
    finals[0] = START
    (pair,) = decided({"a": finals, "b": noisy(0.9, rng=1)})["e"].pairs
    assert pair.failed == []
    assert pair.difference.value is not None

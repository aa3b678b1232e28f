"""The verdict: sentences from the held-out rewards per seed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlalign.compare.analysis.verdict import beaten, verdict, winners

PROMPTS = 8


def test_identical_results_are_named_and_do_not_enter_the_power(decided: Any, noisy: Any) -> None:
    """Fails for a smallest detectable difference of 0.000, that of two names for the same rewards."""
    rewards = noisy(0.5)
    envs = decided({"grpo": rewards, "gspo": rewards.copy(), "rloo": noisy(0.51, rng=1)})
    same, other, _ = envs["e"].pairs
    assert (same.identical, same.detectable, same.winner) == (True, None, None)
    assert not other.identical
    assert (other.detectable or 0.0) > 0
    sentences = verdict(envs, ["grpo", "gspo", "rloo"], 6)
    assert "grpo and gspo gave identical results on e." in sentences
    assert "0.000" not in sentences[-1]
    assert sentences[-1].startswith("For every other pair, the study had at least 80 % power")
    alone = verdict(decided({"grpo": rewards, "gspo": rewards.copy()}), ["grpo", "gspo"], 6)
    assert any("identical results" in sentence for sentence in alone)
    assert "is unknown" in alone[-1]


def test_four_seeds_name_no_winner_at_any_difference(decided: Any, noisy: Any) -> None:
    envs = decided({"high": noisy(0.9, 4), "low": noisy(0.3, 4, 1)})
    (pair,) = envs["e"].pairs
    assert (pair.p or 1.0) < 0.001
    assert pair.winner is None
    assert "4 seeds are too few to name a winner" in pair.sentence
    sentences = verdict(envs, ["high", "low"], 4)
    assert sentences[0] == "No winner is named: that takes 5 seeds, and there are 4."
    assert pair.detectable is None  # with four seeds no difference can be claimed
    assert not any("power" in sentence for sentence in sentences)


def test_an_algorithm_that_failed_at_every_seed_is_not_compared(decided: Any, noisy: Any) -> None:
    """Fails for 'b ended 0.4 above a': the rewards of a are those of the initial policy."""
    envs = decided({"a": None, "b": noisy(0.5), "c": noisy(0.9, rng=1)})
    lost = [p for p in envs["e"].pairs if p.failed]
    assert [(p.a, p.b, p.failed) for p in lost] == [("a", "b", ["a"]), ("a", "c", ["a"])]
    assert all((p.winner, p.p_holm, p.difference.value, p.detectable) == (None, None, None, None) for p in lost)
    text = " ".join(verdict(envs, ["a", "b", "c"], 6))
    assert "a failed at every seed on e and is not compared there." in text
    assert "c ended 0.393 above b on e" in text
    assert "p < 0.001" in text
    assert "above a" not in text
    alone = verdict(decided({"a": None, "b": noisy(0.5)}), ["a", "b"], 6)
    assert alone == ["a failed at every seed on e and is not compared there."]


def test_the_study_names_the_largest_of_the_detectable_differences(decided: Any, noisy: Any) -> None:
    """Fails for the smallest: the sentence is about every pair."""
    wide = 0.5 + 0.4 * np.random.default_rng(5).normal(size=(6, PROMPTS))
    envs = decided({"a": noisy(0.5), "b": noisy(0.5, rng=1), "c": wide})
    sizes = [p.detectable or 0.0 for p in envs["e"].pairs]
    assert max(sizes) > 2 * min(sizes)
    sentence = verdict(envs, ["a", "b", "c"], 6)[-1]
    assert sentence.startswith("For every pair, the study had at least 80 % power")
    assert f"a true difference of {max(sizes):.3f} on e" in sentence


def _beaten(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    """Return winner -> losers of (winner, loser) pairs."""
    return beaten([SimpleNamespace(a=w, b=loser, winner=w) for w, loser in pairs])  # type: ignore[misc]  # stands in for Pair


@pytest.mark.parametrize(
    ("beaten_on", "sentence"),
    [
        # b ended above c and a above b: nothing follows for a and c
        (
            {"x": _beaten(("a", "b"), ("b", "c")), "y": _beaten(("a", "b"), ("b", "c"))},
            "a ended above b and b ended above c on both environments.",
        ),
        (
            {env: _beaten(("a", "b"), ("a", "c"), ("a", "d")) for env in "xyz"},
            "a ended above every other algorithm on all 3 environments.",
        ),
        (
            {"x": _beaten(("a", "b")), "y": {}, "z": _beaten(("a", "b"), ("a", "c"), ("a", "d"))},
            "Every difference that can be claimed is in favor of a: it ended above b on x and every other algorithm "
            "on z. On y no difference can be claimed.",
        ),
        (
            {"x": _beaten(("a", "b"), ("c", "d")), "y": _beaten(("d", "a"))},
            "On x, a ended above b and c ended above d; on y, d ended above a.",
        ),
        ({"x": _beaten(("c", "d"))}, "c ended above d on x."),
    ],
)
def test_sentences_about_winners(beaten_on: dict[str, dict[str, list[str]]], sentence: str) -> None:
    assert winners(beaten_on, ["a", "b", "c", "d"]) == sentence


def test_many_winners_are_counted() -> None:
    names = list("abcdefgh")
    strict_order = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    sentence = winners({"x": _beaten(*strict_order)}, names)
    assert sentence.startswith("a ended above every other algorithm, b ended above all the others but a and ")
    assert sentence.endswith("15 more pairs differ on x.")
    several = winners({"x": _beaten(*(("a", b) for b in "bcde"))}, names)
    assert several == "a ended above 4 of the 7 others on x."

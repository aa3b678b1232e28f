"""What may be said: from held-out rewards, seed for seed, to sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_1samp

from rlalign.compare.analysis.aggregate import aggregate
from rlalign.compare.analysis.analyze import analyse_env
from rlalign.compare.analysis.pairs import decide
from rlalign.compare.analysis.verdict import beaten, verdict, winners
from rlalign.compare.output.html.components import cost, estimate
from rlalign.compare.output.html.numbers import level
from rlalign.compare.output.tables import final_rewards_table, learning_table
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import Curve, EnvResult
from rlalign.compare.study import Cell
from rlalign.config.schema import TrainConfig

PROMPTS = 8
START = 0.1


def env_of(rewards: Mapping[str, Any], name: str = "e") -> dict[str, EnvResult]:
    """A decided environment: algorithm -> final rewards [seeds, prompts], None for one that failed at every seed."""
    seeds = next(len(r) for r in rewards.values() if r is not None)
    grid = {
        a: {s: _record(a, s, None if r is None else np.asarray(r[s], dtype=float)) for s in range(seeds)}
        for a, r in rewards.items()
    }
    return decide({name: analyse_env(grid)})


def _record(algorithm: str, seed: int, after: Any) -> Record:
    cell = Cell("e", algorithm, seed, TrainConfig())
    before = {"reward": np.full(PROMPTS, START)}
    samples = [{"prompt": str(i), "before": ["a"], "after": ["b"]} for i in range(PROMPTS)]
    budget = [0.0, 50.0, 100.0]
    height = [START, START, START if after is None else float(after.mean())]
    curve = Curve([0, 1, 2], budget, budget, budget, budget, list(height), [0.0, 0.0, 0.0])
    if after is None:
        return Record(cell, "FaultError: not finite", {}, {}, [], None, curve)
    return Record(cell, None, before, {"reward": after}, samples, curve, curve)


def drawn(level: float, seeds: int = 6, rng: int = 0) -> Any:
    return level + 0.05 * np.random.default_rng(rng).normal(size=(seeds, PROMPTS))


def test_two_that_are_one_run_are_said_to_be_and_hide_no_power() -> None:
    """Kills a smallest detectable difference of 0.000, that of two names for the same rewards."""
    one = drawn(0.5)
    envs = env_of({"grpo": one, "gspo": one.copy(), "rloo": drawn(0.51, rng=1)})
    same, other, _ = envs["e"].pairs
    assert (same.identical, same.detectable, same.winner) == (True, None, None)
    assert not other.identical
    assert (other.detectable or 0.0) > 0
    said = verdict(envs, ["grpo", "gspo", "rloo"], 6)
    assert "grpo and gspo gave identical results on e." in said
    assert "0.000" not in said[-1]
    assert said[-1].startswith("For every other pair, the study had at least 80 % power")
    alone = verdict(env_of({"grpo": one, "gspo": one.copy()}), ["grpo", "gspo"], 6)
    assert any("identical results" in sentence for sentence in alone)
    assert "is unknown" in alone[-1]


def test_the_winner_is_the_higher_and_its_interval_reads_in_its_favour() -> None:
    """Kills naming the loser, and bounds that are not turned with the pair."""
    for names in (("high", "low"), ("low", "high")):
        rewards = {"high": drawn(0.9), "low": drawn(0.3, rng=1)}
        (pair,) = env_of({name: rewards[name] for name in names})["e"].pairs
        assert pair.winner == "high"
        assert pair.sentence.startswith("high ended 0.6")
        low, high = re.findall(r"[+-]\d\.\d+", pair.sentence)
        assert 0 < float(low) < 0.6 < float(high)
        assert ((pair.difference.value or 0.0) > 0) == (names[0] == "high")


def test_four_seeds_name_no_winner_however_clear_it_is() -> None:
    envs = env_of({"high": drawn(0.9, 4), "low": drawn(0.3, 4, 1)})
    (pair,) = envs["e"].pairs
    assert (pair.p or 1.0) < 0.001
    assert pair.winner is None
    assert "4 seeds are too few to name a winner" in pair.sentence
    said = verdict(envs, ["high", "low"], 4)
    assert said[0] == "No winner is named: that takes 5 seeds, and there are 4."
    assert pair.detectable is None  # what cannot be claimed at any size has no smallest size
    assert not any("power" in sentence for sentence in said)


def test_holms_correction_runs_over_all_environments() -> None:
    """Kills a claim from an uncorrected p, and one that is corrected within its environment alone."""
    seeds = 0.08 + 0.08 * np.array([-1.2, -0.8, 0.1, 0.3, 0.6, 1.0])
    close = {"a": np.repeat(0.5 + seeds[:, None], PROMPTS, 1), "b": np.full((6, PROMPTS), 0.5)}
    alone = env_of(close, "one")
    (pair,) = alone["one"].pairs
    assert pair.p == pytest.approx(ttest_1samp(seeds, 0.0).pvalue)
    assert 0.025 < (pair.p or 1.0) < 0.05
    assert pair.winner == "a"
    both = decide({**alone, **env_of({"a": drawn(0.5), "b": drawn(0.5, rng=1)}, "two")})
    assert both["one"].pairs[0].p_holm == pytest.approx(2 * (pair.p or 1.0))
    assert [p.winner for env in both.values() for p in env.pairs] == [None, None]
    assert both["one"].pairs[0].sentence.endswith("after Holm's correction: no claim.")


def test_a_difference_is_of_the_same_seed_and_prompt() -> None:
    """Kills pairs that are not: seeds and prompts here differ far more than the algorithms."""
    common = np.linspace(-3, 3, 6)[:, None] + np.linspace(-1, 1, PROMPTS)
    (pair,) = env_of({"a": common + drawn(0.2), "b": common + drawn(0.0, rng=1)})["e"].pairs
    assert pair.winner == "a"
    assert (pair.difference.high or 9.0) < 0.3


def test_who_failed_everywhere_has_no_difference() -> None:
    """Kills 'b ended 0.4 above a': a has no policy, only the start that all had."""
    envs = env_of({"a": None, "b": drawn(0.5), "c": drawn(0.9, rng=1)})
    lost = [p for p in envs["e"].pairs if p.failed]
    assert [(p.a, p.b, p.failed) for p in lost] == [("a", "b", ["a"]), ("a", "c", ["a"])]
    assert all((p.winner, p.p_holm, p.difference.value, p.detectable) == (None, None, None, None) for p in lost)
    said = " ".join(verdict(envs, ["a", "b", "c"], 6))
    assert "a failed at every seed on e and is not compared there." in said
    assert "c ended 0.393 above b on e" in said
    assert "p < 0.001" in said
    assert "above a" not in said
    alone = verdict(env_of({"a": None, "b": drawn(0.5)}), ["a", "b"], 6)
    assert alone == ["a failed at every seed on e and is not compared there."]


def test_one_failed_seed_is_still_a_comparison() -> None:
    finals = drawn(0.5)
    finals[0] = START
    (pair,) = env_of({"a": finals, "b": drawn(0.9, rng=1)})["e"].pairs
    assert pair.failed == []
    assert pair.difference.value is not None


def test_a_seed_that_failed_counts_as_its_start_wherever_it_can() -> None:
    """Kills leaving it out, its partial result, another seed's start, and a common budget or KL that not all had."""
    last = 5

    def record(algorithm: str, seed: int, budget: list[float], reward: list[float], kl: list[float]) -> Record:
        failed = algorithm == "b" and seed == last
        one = _record(algorithm, seed, None if failed else np.full(PROMPTS, reward[-1]))
        curve = Curve([0, 1, 2], budget, budget, budget, budget, list(reward), list(kl))
        before = {} if failed else {"reward": np.full(PROMPTS, START + seed / 100)}
        return replace(one, before=before, held_out=None if failed else curve, training=curve)

    a = {s: record("a", s, [0.0, 50.0, 100.0], [0.1, 0.3, 0.5], [0.0, 1.0, 2.0]) for s in range(last + 1)}
    b = {s: record("b", s, [0.0, 40.0, 80.0], [0.1, 0.2, 0.3], [0.0, 2.0, 4.0]) for s in range(last + 1)}
    env = analyse_env({"a": a, "b": b}, threshold=0.4)
    ours, theirs = env.algorithms["a"], env.algorithms["b"]
    assert theirs.failed == [False] * last + [True]
    assert theirs.final[last] == ours.start[last] == pytest.approx([START + last / 100] * PROMPTS)
    assert theirs.mean.value == pytest.approx((0.3 * last + START + last / 100) / (last + 1))
    assert env.kl_level == 2.0
    assert ours.at_equal_kl_seeds == pytest.approx([0.5] * (last + 1))
    assert theirs.at_equal_kl_seeds[:last] == pytest.approx([0.2] * last)
    assert theirs.at_equal_kl_seeds[last] is None
    assert ours.auc_seeds["tokens"] == pytest.approx([(50 * 0.2 + 30 * 0.36) / 80] * (last + 1))  # to 80, which all had
    assert theirs.auc_seeds["tokens"] == pytest.approx([0.2] * last + [START + last / 100])
    assert theirs.to_threshold["tokens"].reached == [False] * (last + 1)
    assert theirs.to_threshold["tokens"].spent == [80.0] * (last + 1)


def test_over_environments_the_start_is_0_and_the_best_seed_1() -> None:
    one = env_of({"a": drawn(0.9), "b": drawn(0.5, rng=1)}, "one")
    (low, high) = one["one"].reward_scale
    both = aggregate({**one, **{"two": one["one"]}}, ["a", "b"])
    assert both is not None
    assert low == pytest.approx(START)
    for name, ended in (("a", 0.9), ("b", 0.5)):
        assert both.mean[name].value == pytest.approx((ended - START) / ((high or 0.0) - START), abs=0.03)
    assert aggregate(one, ["a", "b"]) is None  # one environment is no "over"


def test_the_largest_of_the_detectable_differences_is_the_studys() -> None:
    """Kills the smallest: the sentence speaks of whichever pair."""
    noisy = 0.5 + 0.4 * np.random.default_rng(5).normal(size=(6, PROMPTS))
    envs = env_of({"a": drawn(0.5), "b": drawn(0.5, rng=1), "c": noisy})
    sizes = [p.detectable or 0.0 for p in envs["e"].pairs]
    assert max(sizes) > 2 * min(sizes)
    said = verdict(envs, ["a", "b", "c"], 6)[-1]
    assert said.startswith("Whichever the pair, the study had at least 80 % power")
    assert f"a true difference of {max(sizes):.3f} on e" in said


def test_few_seeds_have_no_interval_for_iqm_and_median_and_five_say_their_level() -> None:
    for seeds, covers in ((4, ""), (5, "93.8 % CI"), (6, "95 % CI")):
        env = env_of({"a": drawn(0.5, seeds), "b": drawn(0.6, seeds, 1)})["e"]
        one = env.algorithms["a"]
        assert (one.iqm.low is None, one.median.low is None) == (seeds < 5, seeds < 5)
        assert one.mean.low is not None
        assert level(one.median) == covers
        assert ("[–]" in estimate(one.iqm)) == (seeds < 5)
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - open as long as the console
        console.print(final_rewards_table("e", env, seeds))
        printed = console.export_text()
        assert ("[–]" in printed) == (seeds < 5)
        assert ("median (93.8 % CI)" in printed) == (seeds == 5)


def test_a_threshold_that_nobody_reached_takes_more_than_all_had() -> None:
    grid = {a: {s: _record(a, s, drawn(0.5, 6, i)[s]) for s in range(6)} for i, a in enumerate("ab")}
    env = analyse_env(grid, threshold=2.0)
    never = env.algorithms["a"].to_threshold["samples"]
    assert cost(never).startswith("&gt; 100.0")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - open as long as the console
    console.print(learning_table("e", env))
    assert "> 100" in console.export_text()
    reached = analyse_env(grid, threshold=0.3).algorithms["a"].to_threshold["samples"]
    assert cost(reached).startswith("100.0")


def _found(*won: tuple[str, str]) -> dict[str, list[str]]:
    """Who ended above whom, the first of each two above the second."""
    return beaten([SimpleNamespace(a=w, b=other, winner=w) for w, other in won])  # type: ignore[misc]  # stands in for Pair


@pytest.mark.parametrize(
    ("found", "said"),
    [
        # b ended above c and a above b: nothing was said of a and c
        (
            {"x": _found(("a", "b"), ("b", "c")), "y": _found(("a", "b"), ("b", "c"))},
            "a ended above b and b ended above c on both environments.",
        ),
        (
            {env: _found(("a", "b"), ("a", "c"), ("a", "d")) for env in "xyz"},
            "a ended above every other algorithm on all 3 environments.",
        ),
        (
            {"x": _found(("a", "b")), "y": {}, "z": _found(("a", "b"), ("a", "c"), ("a", "d"))},
            "Every difference that can be claimed is in favour of a: it ended above b on x and every other algorithm "
            "on z. On y no difference can be claimed.",
        ),
        (
            {"x": _found(("a", "b"), ("c", "d")), "y": _found(("d", "a"))},
            "On x, a ended above b and c ended above d; on y, d ended above a.",
        ),
        ({"x": _found(("c", "d"))}, "c ended above d on x."),
    ],
)
def test_who_won_in_words(found: dict[str, dict[str, list[str]]], said: str) -> None:
    assert winners(found, ["a", "b", "c", "d"]) == said


def test_many_winners_are_counted_not_listed() -> None:
    names = list("abcdefgh")
    everyone = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]  # a strict order
    said = winners({"x": _found(*everyone)}, names)
    assert said.startswith("a ended above every other algorithm, b ended above all the others but a and ")
    assert said.endswith("15 more pairs differ on x.")
    several = winners({"x": _found(*(("a", b) for b in "bcde"))}, names)
    assert several == "a ended above 4 of the 7 others on x."

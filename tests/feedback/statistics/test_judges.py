"""The agreement of a judge beside that of people equals hand computations, and its intervals cover."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.feedback.statistics.judges import Interval, judge_report, read_judge_report

# item: votes of people; answers of the judge to both orders
VOTES = {
    1: ["a", "a", "b"],  # people agree in 1 of 3 pairs of votes; the judge (a) with 2 of 3 votes
    2: ["tie", "bad"],  # people agree; the judge flips, which is a tie: it agrees with both
    3: ["b", "b", "tie"],  # 1 of 3 with ties, 1 of 1 without; the judge (a) agrees with none
    4: ["a"],  # one vote: no agreement among people
    5: ["a", "b"],  # the judge has no verdict
}
ANSWERS = {1: ("a", "b"), 2: ("a", "a"), 3: ("a", "b"), 4: ("a", "b"), 5: ("unparsed", "b"), 6: ("tie", "a")}


def test_each_number_equals_a_hand_computation() -> None:
    report = judge_report(VOTES, ANSWERS)
    assert report.with_ties.judge.value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert report.with_ties.people.value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert report.with_ties.difference.value == pytest.approx((2 / 3 + 1 + 0) / 3 - (1 / 3 + 1 + 1 / 3) / 3)
    assert report.with_ties.judge.items == report.with_ties.people.items == 3
    assert report.without_ties.judge.value == pytest.approx((2 / 3 + 0) / 2)
    assert report.without_ties.people.value == pytest.approx((1 / 3 + 1) / 2)
    assert report.one_vote.value == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)
    assert (report.flips.value, report.flips.items) == (pytest.approx(2 / 5), 5)  # items 2 and 6, of 5 with verdicts
    assert report.reversals.value == pytest.approx(1 / 5)
    assert report.unparsed.value == pytest.approx(1 / 12)
    assert report.refused.value == 0
    assert report.first.value == pytest.approx(6 / 10)  # a: 1, 2, 2, 3, 4, 6; b: 1, 3, 4, 5
    assert report.pairs == 6


def test_agreement_of_people_equals_a_count_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    votes = {i: list(rng.choice(["a", "b", "tie", "bad"], rng.integers(2, 6))) for i in range(60)}
    report = judge_report(votes, dict.fromkeys(votes, ("a", "b")))
    for ties, agreement in ((True, report.with_ties), (False, report.without_ties)):
        shares = []
        for answers in votes.values():
            merged = ["tie" if v in ("tie", "bad") else v for v in answers]
            kept = [v for v in merged if ties or v != "tie"]
            pairs = list(itertools.combinations(kept, 2))
            if pairs:
                shares.append(np.mean([x == y for x, y in pairs]))
        assert agreement.people.value == pytest.approx(np.mean(shares))


def test_a_preference_for_the_first_position_is_found() -> None:
    report = judge_report({}, {i: ("a", "a") if i < 12 else ("b", "b") for i in range(15)})
    assert report.position_p == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert report.first.value == pytest.approx(12 / 15)
    assert report.flips.value == report.reversals.value == 1
    assert math.isnan(report.with_ties.judge.value)
    none = judge_report({}, dict.fromkeys(range(15), ("a", "b")))
    assert none.first.value == 0.5
    assert math.isnan(none.position_p)


def test_a_report_without_pairs_has_no_numbers() -> None:
    report = judge_report({}, {})
    assert report.pairs == 0
    assert math.isnan(report.flips.value)


def test_items_of_one_prompt_are_drawn_together() -> None:
    """Four equal items per prompt give the interval of the prompts, which is twice as wide as that of the items."""
    rng = np.random.default_rng(1)
    answers = {4 * g + i: ("a", "a") if flip else ("a", "b") for g, flip in enumerate(rng.random(100) < 0.3)
               for i in range(4)}  # fmt: skip
    clustered = judge_report({}, answers, {i: i // 4 for i in answers}).flips
    alone = judge_report({}, answers).flips
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.15)


def test_intervals_cover_the_agreement() -> None:
    """200 studies of 150 items: coverage in [.89, .99] for a nominal .95; false alarm below 2e-3 (binomial)."""
    true_judge, covered = 0.7, [0, 0]
    for seed in range(200):
        rng = np.random.default_rng(seed)
        easy = rng.random(150) < 0.5  # people agree on easy items and guess on the others
        votes, answers = {}, {}
        for i in range(150):
            p = 0.9 if easy[i] else 0.5
            votes[i] = ["a" if rng.random() < p else "b" for _ in range(3)]
            answers[i] = ("a", "b")
        agreement = judge_report(votes, answers, draws=400, seed=seed).with_ties
        true_people = 0.5 * (0.9**2 + 0.1**2) + 0.5 * 0.5
        covered[0] += agreement.judge.low <= true_judge <= agreement.judge.high
        covered[1] += agreement.difference.low <= true_judge - true_people <= agreement.difference.high
    assert all(0.89 <= c / 200 <= 0.99 for c in covered), covered


def test_a_share_of_zero_has_an_interval() -> None:
    report = judge_report({}, dict.fromkeys(range(5), ("a", "b")))
    assert report.flips.value == report.flips.low == 0
    assert 0.2 < report.flips.high < 0.8  # Agresti and Coull's: 0.44 for independent pairs
    assert 0 < report.flips.detectable < 1


def test_one_prompt_has_no_interval() -> None:
    votes = {i: ["a", "b", "a"] for i in range(5)}
    answers = {i: ("a", "b") if i else ("a", "a") for i in range(5)}
    report = judge_report(votes, answers, dict.fromkeys(range(5), 7))
    every = (report.flips, report.first, report.refused, report.one_vote, report.with_ties.judge,
             report.with_ties.difference)  # fmt: skip
    for interval in every:
        assert math.isfinite(interval.value)
        assert interval.prompts == 1
        assert all(map(math.isnan, (interval.low, interval.high, interval.detectable)))


def test_each_figure_names_its_own_prompts_people_and_votes() -> None:
    people = [_row(0, "a", "xy", annotator="p"), _row(0, "a", "xy", annotator="q")]
    people += [_row(i, "a", "xy", annotator="r") for i in range(1, 50)]
    verdicts = [{"item": 0, "group": 0, "completions": ["x", "y"], "answers": ["a", "b"]}]
    verdicts += [
        {"item": i, "group": i // 2, "completions": ["x", "y"], "answers": ["unparsed", "b"]} for i in range(1, 50)
    ]
    report = read_judge_report(people, verdicts)

    def numbers(interval: Interval) -> tuple[int, int, int, int]:
        return interval.items, interval.prompts, interval.people, interval.votes

    assert numbers(report.with_ties.judge) == numbers(report.with_ties.difference) == (1, 1, 2, 2)
    assert numbers(report.one_vote) == (1, 1, 2, 2)
    assert numbers(report.flips) == (1, 1, 0, 2)
    assert numbers(report.first) == (50, 25, 0, 51)
    assert numbers(report.unparsed) == (50, 25, 0, 100)


def _row(item: int, choice: str, completions: Sequence[str], **more: object) -> dict[str, object]:
    return {"item": item, "choice": choice, "completions": list(completions), "gold": False, "repeat_of": None, **more}


def test_votes_on_the_other_side_of_the_screen_are_turned() -> None:
    verdicts = [{"item": 1, "completions": ["x", "y"], "answers": ["a", "b"], "group": 0}]
    people = [
        _row(1, "a", "xy"), _row(1, "b", "yx"), _row(1, "skip", "xy"), _row(1, "b", "xy", gold=True),
        _row(1, "b", "xy", repeat_of=1), _row(2, "b", "xy"),
    ]  # fmt: skip
    report = read_judge_report(people, verdicts)
    assert report.with_ties.judge.value == report.with_ties.people.value == 1

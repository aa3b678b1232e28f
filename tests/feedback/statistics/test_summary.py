"""All statistics of a study: complete, JSON, and traceable to prompts, people, votes and a paper."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rlalign.feedback.statistics import summarize
from rlalign.feedback.statistics.judgments import BAD, SKIP, WIN
from rlalign.feedback.statistics.win_rates import concatenated
from rlalign.feedback.study import Scale, Study
from tests.feedback.statistics.conftest import draw, pairs
from tests.feedback.statistics.test_plackett_luce import rankings
from tests.feedback.statistics.test_plackett_luce import sample as sample_rankings
from tests.feedback.statistics.test_ratings import ratings
from tests.feedback.statistics.test_ratings import sample as sample_ratings

STUDY = Study(name="test")


def estimates(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Return all estimates in nested values."""
    if isinstance(value, dict):
        if "value" in value and "method" in value:
            yield path, value
        for key, entry in value.items():
            yield from estimates(entry, f"{path}.{key}")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from estimates(entry, f"{path}[{i}]")


def check(summary: dict[str, Any]) -> int:
    """Assert that each estimate can be traced; return their number."""
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    number = 0
    for path, entry in estimates(summary):
        number += 1
        for key in ("prompts", "people", "votes"):
            assert isinstance(entry[key], int), path
            assert entry[key] > 0 or entry["value"] is None, path
        assert entry["method"], path
        assert any(character.isdigit() for character in entry["source"]), path  # the year of a paper
        assert entry["level"] == 0.95
        if entry["low"] is not None:
            assert entry["low"] < entry["high"], path
            assert entry["low"] <= entry["value"] <= entry["high"], path
            assert entry["detectable"] > 0, path
    return number


def test_pairs_of_several_policies() -> None:
    votes = draw(0, 300, strengths=(0.8, 0.4, 0.0), people=8, prompt_sd=1.0, person_sd=0.4)
    rng = np.random.default_rng(0)
    outcome = np.where(rng.random(len(votes)) < 0.03, BAD, votes.outcome)
    outcome = np.where(rng.random(len(votes)) < 0.02, SKIP, outcome)
    votes = dataclasses.replace(votes, outcome=outcome)
    summary = summarize(votes, STUDY)
    assert check(summary) > 60
    counts = summary["counts"]
    assert counts["votes"] == (outcome != SKIP).sum()
    assert counts["skips"] == (outcome == SKIP).sum()
    assert (counts["prompts"], counts["people"]) == (300, 8)
    rates = summary["win_rates"]["pairs"]
    assert [(r["first"], r["second"]) for r in rates] == [("a", "b"), ("a", "c"), ("b", "c")]
    for r in rates:
        assert r["headline"] == "population"
        assert r["simultaneous"]["low"] <= r["population"]["low"]
        assert r["wins"] + r["ties"] + r["bad"] + r["losses"] == r["panel"]["votes"]
    ranking = summary["ranking"]
    assert [p["policy"] for p in ranking["policies"]] == ["a", "b", "c"]
    assert ranking["policies"][0]["best_rank"] == 1
    assert set(summary["strengths"]["models"]) == {"davidson", "rao-kupper", "ties dropped"}
    strengths = summary["strengths"]["models"]["davidson"]["strengths"]
    assert sum(s["panel"]["value"] for s in strengths) == pytest.approx(0)
    assert summary["planning"]["comparisons"] == 3
    assert summary["people"]["unreliable"] == []
    assert summary["without"] == {"unreliable_people": None, "fast_votes": None}


def test_an_unreliable_person_is_named_and_stays() -> None:
    votes = draw(1, 400, strengths=(1.0, 0.0), people=6, prompt_sd=2.0)
    careless = votes.person == 5
    random = np.random.default_rng(0).integers(0, 3, len(votes))
    votes = dataclasses.replace(votes, outcome=np.where(careless, random, votes.outcome))
    gold = pairs(np.full(60, WIN), policy=(-1, -1), person=np.arange(60) % 6, group=np.full(60, -1), policies=2)
    right = np.where(gold.person == 5, 0, 1)
    gold = dataclasses.replace(
        gold, gold=np.ones(60, bool), right=right, people=votes.people, item=10_000 + np.arange(60)
    )
    summary = summarize(concatenated([votes, gold]), STUDY)
    check(summary)
    assert summary["people"]["unreliable"] == ["p5"]
    assert summary["counts"]["gold"] == 60
    assert summary["win_rates"]["pairs"][0]["panel"]["votes"] == len(votes)  # nobody is dropped
    without = summary["without"]["unreliable_people"]
    assert without["votes_left_out"] == careless.sum()
    assert without["win_rates"]["pairs"][0]["panel"]["people"] == 5
    assert without["win_rates"]["pairs"][0]["panel"]["value"] > summary["win_rates"]["pairs"][0]["panel"]["value"]
    (person,) = (p for p in summary["people"]["people"] if p["person"] == "p5")
    assert person["gold"]["value"] == 0
    assert "gold" in person["unreliable"]


def test_below_five_people_the_headline_is_the_panels() -> None:
    three = summarize(draw(2, 100, people=3), STUDY)
    check(three)
    assert three["win_rates"]["pairs"][0]["headline"] == "panel"
    assert three["ranking"]["interval"] == "panel"
    assert summarize(draw(2, 100, people=5), STUDY)["win_rates"]["pairs"][0]["headline"] == "population"


def test_a_policy_that_won_all_has_a_rate_and_no_strength() -> None:
    votes = pairs(np.full(90, WIN), group=np.repeat(np.arange(30), 3), person=np.tile(np.arange(3), 30))
    summary = summarize(votes, STUDY)
    check(summary)
    assert summary["ranking"]["refused"] == "separated"
    assert summary["win_rates"]["pairs"][0]["panel"]["low"] < 0.97
    assert summary["strengths"]["models"]["davidson"]["refused"] == "separated"


def test_one_policy_and_no_votes() -> None:
    one = summarize(pairs([WIN, WIN, SKIP], policy=(0, 0), policies=1, person=[0, 1, 0], group=[0, 0, 1]), STUDY)
    assert one["ranking"]["refused"] == "no votes"
    assert one["win_rates"]["pairs"] == []
    empty = summarize(pairs([]), STUDY)
    assert empty["counts"]["votes"] == 0
    assert empty["planning"] is None
    json.dumps(empty, allow_nan=False)


def test_one_person() -> None:
    summary = summarize(draw(3, 80, people=1, votes=1), STUDY)
    check(summary)
    assert summary["win_rates"]["pairs"][0]["population"] is None


def test_rankings() -> None:
    summary = summarize(rankings(*sample_rankings(0)), dataclasses.replace(STUDY, kind="ranking"))
    assert check(summary) > 20
    assert summary["rankings"]["ranking"]["policies"][0]["policy"] == "e"
    assert len(summary["win_rates"]["pairs"]) == 10
    # six comparisons of a ranking are in the cluster of its prompt
    assert summary["win_rates"]["pairs"][0]["panel"]["prompts"] <= 400
    assert "bias" not in summary


def test_ratings() -> None:
    policy, points = sample_ratings(0)
    # several people rate an item, so that there is agreement
    votes = ratings(policy, points, np.arange(600) // 2)
    votes = dataclasses.replace(votes, item=np.arange(600) // 2, person=np.arange(600) % 2)
    summary = summarize(votes, dataclasses.replace(STUDY, kind="rating", scales=(Scale("q"),)))
    assert check(summary) > 10
    part = summary["ratings"]["q"]
    assert part["ranking"]["policies"][0]["policy"] == "c"
    assert len(part["superiority"]) == 3
    assert summary["agreement"]["q"]["alpha_ordinal"]["value"] < 0.3
    assert "win_rates" not in summary


def test_a_pair_with_one_prompt_has_no_simultaneous_interval_and_the_others_do() -> None:
    outcome = np.random.default_rng(0).integers(0, 3, 121)
    others = [[0, 2]] * 60 + [[1, 2]] * 60
    for policy in ([[0, 1], *others], [*others, [0, 1]]):  # the order of the pairs does not matter
        votes = pairs(outcome, policy=policy, person=np.arange(121) % 3, people=3, policies=3)
        for pair in summarize(votes, STUDY)["win_rates"]["pairs"]:
            if {pair["first"], pair["second"]} == {"a", "b"}:
                assert pair["simultaneous"] is None
            else:
                assert 0 < pair["simultaneous"]["low"] < pair["panel"]["low"]


def test_fast_votes_are_those_that_are_left_out() -> None:
    """Gold items with other times change neither number."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        seconds = np.exp(rng.normal(np.log(20), 0.4, 200))
        seconds[:6] = 3.5
        seconds[120:] = np.exp(rng.normal(np.log(5), 0.8, 80))
        votes = pairs(rng.integers(0, 3, 200), person=np.arange(200) % 4, people=4, seconds=seconds,
                      gold=np.arange(200) >= 120)  # fmt: skip
        summary = summarize(votes, STUDY)
        without = summary["without"]["fast_votes"]
        assert summary["speed"]["fast_votes"] == (0 if without is None else without["votes_left_out"])


def test_people_without_shared_items_have_no_reliability() -> None:
    """One vote per item: nobody can be compared with anybody."""
    rng = np.random.default_rng(0)
    votes = pairs(rng.integers(0, 3, 300), person=rng.integers(0, 3, 300), people=3)
    people = summarize(votes, STUDY)["people"]
    assert [person["reliability"] for person in people["people"]] == [None] * 3
    assert people["model"] is None

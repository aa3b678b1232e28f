"""Votes and ratings of a store as the data of reward models."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.reward_models import Settings, train_reward_model
from rlalign.reward_models.data import read_pairs, read_ratings
from rlalign.rewards.reward_model.rendering import Sample
from tests.feedback.conftest import Client, build, write_study


@pytest.fixture
def store(tmp_path):
    made = build(write_study(tmp_path, "votes_per_item = 3", prompts=8), tmp_path / "study.db")
    yield made
    made.close()


def vote(store, wanted: str) -> None:
    """Let a new person vote on each item for a policy, whose name begins its completions, or "tie"."""
    client = Client(store)
    client.begin()
    while (item := client.api("next")) is not None:
        sides = {c["text"].split()[0]: side for c, side in zip(item["completions"], "ab", strict=True)}
        client.api("vote", {"lease": item["lease"], "choice": sides.get(wanted, wanted)})


def test_a_vote_is_a_pair_and_a_majority_one_per_item(store, tmp_path):
    for wanted in ("left", "left", "right"):
        vote(store, wanted)
    each = read_pairs(tmp_path / "study.db")
    assert len(each.rows) == 24
    assert sum(str(p.chosen.completion).startswith("left") for p in each.rows) == 16
    assert len({p.annotator for p in each.rows}) == 3
    assert {p.chosen_first for p in each.rows} == {True, False}  # sides are drawn: false alarm below 1e-10
    majority = read_pairs(tmp_path / "study.db", majority=True)
    assert len(majority.rows) == 8
    assert all(str(p.chosen.completion).startswith("left") for p in majority.rows)
    assert [p.margin for p in majority.rows] == pytest.approx([1 / 3] * 8)


def test_ties_give_no_pair_and_are_counted(store, tmp_path):
    vote(store, "tie")
    vote(store, "left")
    rows = read_pairs(tmp_path / "study.db")
    assert len(rows.rows) == 8
    assert rows.left_out == {"tie": 8}


def test_model_of_a_store_is_measured_on_its_test_split(tmp_path):
    themes = ("the sea", "a long winter", "my bicycle", "apples", "old maps", "a quiet street", "thunder", "bread")
    rows = [
        {"prompt": f"Write about {theme}.", "policy": name, "completion": f"{name} words on {theme}"}
        for theme in themes
        for name in ("left", "right")
    ]
    path = write_study(tmp_path, "votes_per_item = 2")
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = build(path, tmp_path / "study.db")
    for _ in range(2):
        vote(made, "left")
    made.close()
    pairs = read_pairs(tmp_path / "study.db").rows
    held_out = [p for p in pairs if p.split == "test"]
    result = train_reward_model(tmp_path / "study.db", tmp_path / "rm", Settings(model="linear"))
    assert result.held_out == len(held_out) > 0
    assert result.metrics.accuracy.value == 1.0


def test_ratings_of_a_store(tmp_path):
    text = 'kind = "rating"\nvotes_per_item = 1\n[[scales]]\nname = "clarity"\n'
    made = build(write_study(tmp_path, text, prompts=4), tmp_path / "study.db")
    client = Client(made)
    client.begin()
    while (item := client.api("next")) is not None:
        points = 5 if item["completions"][0]["text"].startswith("left") else 2
        client.api("vote", {"lease": item["lease"], "ratings": {"clarity": points}})
    made.close()
    rows = read_ratings(tmp_path / "study.db").rows
    assert sorted(r.points for r in rows) == [2.0] * 4 + [5.0] * 4
    assert all((r.points == 5) == str(r.sample.completion).startswith("left") for r in rows)
    assert isinstance(rows[0].sample, Sample)

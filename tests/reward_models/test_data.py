"""Pairs and ratings from files and stores, and their division by groups of prompts."""

from __future__ import annotations

import json

import pytest

from rlalign.errors import UserError
from rlalign.reward_models.data import Pair, divide, is_store, read_pairs, read_ratings
from rlalign.rewards.reward_model.rendering import Sample
from tests.reward_models.tiny import notes, write_rows


def test_rows_of_a_file(tmp_path):
    rows = [
        {
            "prompt": "One two three",
            "chosen": "a",
            "rejected": "b",
            "margin": 0.5,
            "annotator": "x",
            "chosen_cut": True,
        },
        {"chosen": "Something else: c", "rejected": "Something else: d", "subset": "s", "chosen_first": False},
    ]
    first, second = read_pairs(write_rows(tmp_path / "d.jsonl", rows)).rows
    assert (first.chosen, first.rejected) == (Sample("One two three", "a", True), Sample("One two three", "b"))
    assert (first.margin, first.annotator, first.chosen_first) == (0.5, "x", None)
    assert (second.chosen.prompt, second.chosen.completion) == ("Something else:", " c")  # as TRL's extract_prompt
    assert (second.columns["subset"], second.chosen_first) == ("s", False)
    assert first.group != second.group


def test_flags_of_a_csv_file_are_texts(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("prompt,chosen,rejected,chosen_cut,rejected_cut\nOne two,a,b,False,True\n")
    (pair,) = read_pairs(path).rows
    assert (pair.chosen.cut, pair.rejected.cut) == (False, True)


def test_division_has_no_common_group_and_a_share(tmp_path):
    rows = read_pairs(write_rows(tmp_path / "d.jsonl", notes(200))).rows
    train, test = divide(rows, test=0.2)
    assert len(train) + len(test) == 200
    assert {r.group for r in train}.isdisjoint(r.group for r in test)
    assert 20 <= len(test) <= 40
    assert divide(rows, test=0.2, seed=1)[1] != test


def test_splits_of_the_data_are_used_and_checked():
    def row(group, split):
        return Pair(Sample("p", "a"), Sample("p", "b"), group=group, split=split)

    train, test = divide([row(0, "train"), row(1, "test"), row(2, "other")], test=0.2)
    assert ([r.group for r in train], [r.group for r in test]) == ([0], [1])
    with pytest.raises(UserError, match="expected splits without common prompts, got 1 groups"):
        divide([row(0, "train"), row(0, "test")], test=0.2)
    with pytest.raises(UserError, match="expected two or more groups of prompts, got 1"):
        divide([row(0, ""), row(0, "")], test=0.2)


def test_ratings_of_a_file(tmp_path):
    rows = [{"prompt": "p", "completion": "c", "rating": 4}, {"prompt": "p", "completion": "d", "score": 1.5}]
    assert [r.points for r in read_ratings(write_rows(tmp_path / "r.jsonl", rows)).rows] == [4.0, 1.5]
    for row, message in (({"completion": "c", "rating": "4"}, "expected a number"), ({"rating": 4}, "expected texts")):
        with pytest.raises(UserError, match=message):
            read_ratings(write_rows(tmp_path / "r.jsonl", [row]))


def test_no_pairs_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}) + "\n")
    with pytest.raises(UserError, match="expected preferences between two completions, got none"):
        read_pairs(path)


def test_stores_are_recognized_by_name():
    assert is_store("study.db")
    assert is_store("postgresql://host/db")
    assert not is_store("prefs.jsonl")

"""Tests of Events: rewards for the fields of a record."""

import json
from functools import partial

import pytest

from rlalign.envs.builtin.language import events
from rlalign.envs.registration import make_mdp


@pytest.mark.parametrize("language", ["en", "zh"])
def test_correct_fields_score(language: str, score) -> None:
    mdp = make_mdp("events", language=language)
    task = mdp.source.get("train", 0)
    record = json.loads(task.columns["answer"])
    assert record["who"] in str(task.prompt)
    wrong_day = {**record, "day": "never"}
    dump = partial(json.dumps, ensure_ascii=False)
    reordered = dict(reversed(record.items()))
    scores = score(mdp, task, dump(record), dump(reordered), dump(wrong_day), dump(record)[:-1], "{}")
    assert scores["json_fields"] == pytest.approx([1, 1, 0.75, 0, 0])
    assert scores["json_valid"] == [1, 1, 1, 0, 1]
    assert scores["pairs"] == [1, 1, 0.75, 1, 0]


def test_a_list_of_all_values_does_not_score() -> None:
    answer = ['{"who": "Anna"}'] * 3
    completions = ['"who": "Omar" "who": "Anna"', '"who": "Anna" "who": "Omar"', "who: Anna"]
    assert events.pairs(completions, answer) == [0, 1, 0]

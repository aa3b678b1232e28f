"""Splits by groups of prompts."""

from __future__ import annotations

import pytest

from rlalign.errors import UserError
from rlalign.preferences.pairs import Preference
from rlalign.preferences.splits import group_text, groups_of, split_by_group

TOPICS = [
    "rivers of Europe", "the moon landing", "bread and cheese", "deep sea fish", "old railways", "jazz pianists",
    "desert plants", "roman baths", "chess endings", "volcanoes", "glass makers", "bees and honey",
]  # fmt: skip


def preferences() -> list[Preference]:
    rows = []
    for i, topic in enumerate(TOPICS):
        for number in range(1 + i % 3):  # groups of one to three preferences
            prompt = f"Write lines about {topic}{'!' * number}"
            rows.append(Preference(f"{topic} good {number}", f"{topic} bad {number}", prompt))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_both_parts(seed: int) -> None:
    rows = preferences()
    split = split_by_group(rows, test=0.25, seed=seed)
    assert len(split.train) + len(split.test) == len(rows) == 24
    assert 4 <= len(split.test) <= 6
    assert {p.split for p in split.train} == {"train"}
    assert {p.split for p in split.test} == {"test"}
    topics = [{str(p.prompt).split("about ")[1] for p in part} for part in (split.train, split.test)]
    topics = [{topic.strip("!") for topic in part} for part in topics]
    assert not topics[0] & topics[1]
    assert (split.train_groups, split.test_groups) == (len(topics[0]), len(topics[1]))
    assert str(split).startswith(f"train: {len(split.train)} preferences, {len(topics[0])} groups of prompts; test: ")


def test_the_seed_decides() -> None:
    rows = preferences()
    assert split_by_group(rows, seed=1) == split_by_group(rows, seed=1)
    assert len({tuple(p.prompt for p in split_by_group(rows, seed=seed).test) for seed in range(8)}) > 3


def test_groups_that_are_larger_than_the_share() -> None:
    rows = [Preference("a", "b", "Name a river."), *[Preference(f"a{i}", "b", "Draw a map.") for i in range(3)]]
    split = split_by_group(rows, test=0.1)
    assert [p.prompt for p in split.test] == ["Name a river."]


def test_implicit_prompts_and_conversations_are_grouped_too() -> None:
    system = {"role": "system", "content": "You are a helpful assistant. " * 20}
    chat = [system, {"role": "user", "content": "Name a river."}]
    other = [system, {"role": "user", "content": "Draw a map of the town."}]
    rows = [
        Preference("Name a river.\nThe Rhine", "Name a river.\nParis", None),
        Preference([*chat, {"role": "assistant", "content": "a"}], [*chat, {"role": "assistant", "content": "b"}]),
        Preference([{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}], other),
    ]
    assert group_text(rows[1]) == "Name a river."
    assert groups_of(rows) == [0, 0, 2]


def test_what_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="two or more groups of prompts, got 1"):
        split_by_group([Preference("a", "b", "p"), Preference("c", "d", "P.")])
    with pytest.raises(UserError, match="between 0 and 1"):
        split_by_group(preferences(), test=1.0)

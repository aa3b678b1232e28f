"""Votes of a store as preferences: what counts, what is left out, and what each kind of study gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.errors import UserError
from rlalign.feedback.people import find_person, withdraw
from rlalign.feedback.progress import votes
from rlalign.feedback.store import Store
from rlalign.feedback.study import CHOICES
from rlalign.preferences.formats import read_preferences
from rlalign.preferences.from_votes import preferences_of_votes
from rlalign.preferences.pairs import Preference
from tests.feedback.conftest import GOLD, PRACTICE, Client

Open = Callable[..., Store]
ON_SQLITE = pytest.mark.parametrize("location", ["sqlite"], indirect=True)


def made(store: Store, **options: Any) -> tuple[list[Preference], Counter[str]]:
    left_out: Counter[str] = Counter()
    preferences = store.read(lambda c: list(preferences_of_votes(votes(c), left_out, **options)))
    return preferences, left_out


def answer(client: Client, wanted: Callable[[str], str]) -> None:
    """Vote on each item: for the completion whose text begins with the wanted policy, or tie, bad, skip; gold: A."""
    while (item := client.api("next")) is not None:
        texts = [c["text"] for c in item["completions"]]
        choice = wanted(item["prompt"][0]["text"])
        sides = {text.split()[0]: side for text, side in zip(texts, "ab", strict=False)}
        client.api("vote", {"lease": item["lease"], "choice": sides.get(choice, choice if choice in CHOICES else "a")})


def number(prompt: str) -> int:
    return int("".join(c for c in prompt if c.isdigit()))


# choice of each of three people by the number of the prompt; the majority follows below
PANEL = [
    ["left", "right", "left", "tie", "bad", "skip"],
    ["left", "right", "right", "left", "bad", "left"],
    ["left", "left", "tie", "bad", "left", "left"],
]


@ON_SQLITE
def test_the_majority_of_each_item_on_any_side_of_the_screen(open_study: Open) -> None:
    """Prompt 0: 3 to 0; 1: 2 to 1 for right; 2: 1 to 1; 3: 1 to 0 of 3; 4: 1 to 0 of 3; 5: 2 to 0 of 2."""
    store = open_study("votes_per_item = 3")
    for choices in PANEL:
        client = Client(store)
        client.begin()
        answer(client, lambda prompt, own=choices: own[number(prompt)])  # type: ignore[misc]
    preferences, left_out = made(store)
    by_prompt = {number(str(p.prompt)): p for p in preferences}
    expected = {0: ("left", 1.0, 3), 1: ("right", 1 / 3, 3), 3: ("left", 1 / 3, 3), 4: ("left", 1 / 3, 3),
                5: ("left", 1.0, 2)}  # fmt: skip
    assert {i: (str(p.chosen).split()[0], p.margin, p.extra["votes"]) for i, p in sorted(by_prompt.items())} == expected
    assert left_out == {"tie": 1, "skip": 1}
    assert {p.form for p in preferences} == {"standard explicit"}
    first = by_prompt[1]
    assert (first.extra["chosen_policy"], first.extra["rejected_policy"], first.extra["chosen_cut"]) == (
        "right", "left", False,
    )  # fmt: skip
    assert {p.split for p in preferences} <= {"train", "test"}
    stored = {row["item"]: (row["group"], row["split"]) for row in store.read(lambda c: list(votes(c)))}
    assert all((p.group, p.split) == stored[p.extra["item"]] for p in preferences)


@ON_SQLITE
def test_a_preference_per_vote_names_the_pseudonym_and_no_internal_number(open_study: Open) -> None:
    store = open_study("votes_per_item = 2", prompts=2)
    people = [Client(store), Client(store)]
    for client, choice in zip(people, ("left", "bad"), strict=True):
        client.begin()
        answer(client, lambda _, own=choice: own)  # type: ignore[misc]
    preferences, left_out = made(store, each_answer=True)
    assert [p.annotator for p in preferences] == [people[0].link.pseudonym] * 2
    assert {p.margin for p in preferences} == {None}
    assert left_out == {"both bad": 2}


@ON_SQLITE
def test_gold_practice_repetitions_withdrawn_and_undone_votes_do_not_count(open_study: Open) -> None:
    store = open_study("gold_share = 0.5\nrepeat_share = 0.5\nvotes_per_item = 2\n" + GOLD + PRACTICE, prompts=14)
    kept, gone = Client(store), Client(store)
    for client, choice in ((kept, "left"), (gone, "right")):
        client.begin()
        item = client.api("next")
        client.api("vote", {"lease": item["lease"], "choice": "a"})  # the practice item
        client.api("continue")
        first = client.vote("tie")
        client.api("undo", {"vote": first["vote"]})
        answer(client, lambda _, own=choice: own)  # type: ignore[misc]
    rows = store.read(lambda c: list(votes(c)))
    assert any(row["gold"] for row in rows)
    assert any(row["repeat_of"] for row in rows)
    store.write(
        lambda c: withdraw(c, find_person(c, gone.link.pseudonym), delete_comments=False, actor="test")
    ).result()
    preferences, left_out = made(store)
    assert len(preferences) == 14
    assert {str(p.chosen).split()[0] for p in preferences} == {"left"}
    assert {p.extra["votes"] for p in preferences} == {1}
    assert left_out["gold vote"] >= 1
    assert left_out["repetition"] >= 1


@ON_SQLITE
def test_rankings_give_pairs_by_majority(open_study: Open) -> None:
    store = open_study('kind = "ranking"\nvotes_per_item = 2', prompts=1, completions=3)
    orders = (["left", "right", "third"], ["right", "left", "third"])
    for order in orders:
        client = Client(store)
        client.begin()
        item = client.api("next")
        ranking = {c["label"]: order.index(c["text"].split()[0]) + 1 for c in item["completions"]}
        client.api("vote", {"lease": item["lease"], "ranking": ranking})
    preferences, left_out = made(store)
    assert sorted((str(p.chosen), str(p.rejected), p.margin) for p in preferences) == [
        ("left 0", "third 0", 1.0), ("right 0", "third 0", 1.0)
    ]  # fmt: skip
    assert left_out == {"tie": 1}
    assert len(made(store, each_answer=True)[0]) == 6


SCALES = 'kind = "rating"\nvotes_per_item = 2\n[[scales]]\nname = "quality"\n[[scales]]\nname = "fluency"\n'


def rated(open_study: Open) -> Store:
    """A study of two prompts, two policies and two people, who rate left 4 and 5, right 2 and 4; prompt 1 alike."""
    store = open_study(SCALES, prompts=2)
    for points in ({"left": 4, "right": 2}, {"left": 5, "right": 4}):
        client = Client(store)
        client.begin()
        while (item := client.api("next")) is not None:
            policy, prompt = item["completions"][0]["text"].split()
            quality = points[policy] if prompt == "0" else 3
            ratings = {"quality": quality, "fluency": 1 if policy == "left" else 2}
            client.api("vote", {"lease": item["lease"], "ratings": ratings})
    return store


@ON_SQLITE
def test_ratings_give_pairs_by_their_means(open_study: Open) -> None:
    store = rated(open_study)
    preferences, left_out = made(store)
    assert [(p.chosen, p.rejected, p.margin) for p in preferences] == [("left 0", "right 0", 1.5)]
    assert preferences[0].extra["scale"] == "quality"
    assert left_out == {"tie": 1}
    fluent, _ = made(store, scale="fluency")
    assert sorted((str(p.chosen), p.margin) for p in fluent) == [("right 0", 1.0), ("right 1", 1.0)]
    with pytest.raises(UserError, match="expected a rating on the scale 'style', got quality, fluency; use --scale"):
        made(store, scale="style")


def test_conversations_stay_messages_and_plain_prompts_beside_them_become_messages(tmp_path: Path) -> None:
    row = {
        "item": 1, "kind": "pair", "choice": "a", "annotator": "p", "completions": ["x", "y"],
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}],
    }  # fmt: skip
    plain = {**row, "item": 2, "prompt": [{"role": "text", "content": "The film was"}]}
    first, second = preferences_of_votes([row, plain], Counter())
    assert first.row()["prompt"] == row["prompt"]
    assert first.chosen == [{"role": "assistant", "content": "x"}]
    assert (second.prompt, second.form) == ([{"role": "user", "content": "The film was"}], "conversational explicit")
    (alone,) = preferences_of_votes([plain], Counter())
    assert (alone.prompt, alone.chosen) == ("The film was", "x")
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(plain) + "\n")
    assert list(read_preferences(path)) == [first, second]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "duel"}, {"choice": "c"}, {"completions": ["x"]}, {"completions": "xy"}, {"prompt": 3},
        {"kind": "ranking", "ranking": {"A": 1}}, {"kind": "rating", "ratings": None}, {"policies": ["a"]}, {"cut": 3},
    ],
)  # fmt: skip
def test_a_row_that_is_no_vote_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    row = {"item": 1, "prompt": "p", "kind": "pair", "choice": "a", "annotator": "p", "completions": ["x", "y"]}
    path = tmp_path / "votes.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, **change}) + "\n")
    with pytest.raises(UserError, match=r"votes.jsonl, line 2: expected votes as"):
        list(read_preferences(path, format="votes"))


def test_items_with_one_number_in_two_studies_stay_apart() -> None:
    first = {"item": 1, "prompt": "P1", "kind": "pair", "choice": "a", "annotator": "x", "completions": ["good", "bad"],
             "policies": ["a", "b"], "group": 0, "split": "train"}  # fmt: skip
    other = {**first, "prompt": "P2", "completions": ["fine", "poor"], "policies": ["c", "d"], "split": "test"}
    third = {**other, "choice": "b", "completions": ["dull", "new"]}  # other completions of the same prompt
    swapped = {**first, "choice": "b", "completions": ["bad", "good"], "policies": ["b", "a"], "annotator": "y"}
    made = list(preferences_of_votes([first, other, third, swapped], Counter()))
    assert [(p.prompt, p.chosen, p.rejected, p.split, p.extra["votes"]) for p in made] == [
        ("P1", "good", "bad", "train", 2), ("P2", "fine", "poor", "test", 1), ("P2", "new", "dull", "test", 1),
    ]  # fmt: skip
    rated = {**first, "item": 2, "kind": "rating", "choice": "", "ratings": {"q": 3}, "completions": ["good"],
             "policies": ["a"]}  # fmt: skip
    better = {**rated, "item": 3, "ratings": {"q": 5}, "completions": ["best"], "policies": ["c"]}
    both = list(preferences_of_votes([first, rated, better], Counter()))
    assert [(p.chosen, p.rejected) for p in both] == [("good", "bad"), ("best", "good")]

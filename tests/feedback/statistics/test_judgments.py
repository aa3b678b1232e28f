"""Votes as arrays: canonical sides, and the same from a store and from its export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.people import find_person, withdraw
from rlalign.feedback.progress import annotators, votes
from rlalign.feedback.statistics.judgments import (
    BAD,
    LOSS,
    SKIP,
    TIE,
    WIN,
    Judgments,
    judgments_from_rows,
    read_judgments,
)
from rlalign.feedback.store import Store
from tests.feedback.conftest import GOLD, Client

Open = Callable[..., Store]


def row(
    choice: str, policies: tuple[str, str], texts: tuple[str, str] = ("one", "three"), **more: Any
) -> dict[str, Any]:
    return {
        "kind": "pair", "choice": choice, "policies": policies, "completions": texts, "group": 1, "item": 2,
        "annotator": "x", "active_ms": 1500, "gold": False, "repeat_of": None, "ratings": None, "ranking": None, **more,
    }  # fmt: skip


def test_outcomes_are_those_of_the_policies_and_not_of_the_sides() -> None:
    choices = ("a", "b", "tie", "bad", "skip")
    plain = judgments_from_rows([row(c, ("u", "v")) for c in choices])
    turned = judgments_from_rows([row(c, ("v", "u"), ("three", "one")) for c in choices])
    assert plain.outcome.tolist() == [WIN, LOSS, TIE, BAD, SKIP]
    assert turned.outcome.tolist() == [LOSS, WIN, TIE, BAD, SKIP]
    assert plain.first_left.all()
    assert not turned.first_left.any()
    for votes_ in (plain, turned):
        assert votes_.policies == ("u", "v")
        assert (votes_.policy == [0, 1]).all()
        assert (votes_.length == [3, 5]).all()
        assert (votes_.seconds == 1.5).all()


def test_completions_of_one_policy_have_sides_too() -> None:
    """Two people who prefer the same text agree, on either side of the screen."""
    rows = [row("a", ("u", "u"), ("one", "two")), row("b", ("u", "u"), ("two", "one"))]
    assert len(set(judgments_from_rows(rows).outcome.tolist())) == 1


def test_rankings_and_ratings_follow_the_policies() -> None:
    ranked = row(
        "", ("v", "u", "w"), ("2", "1", "3"), kind="ranking", ranking={"A": 3, "B": 1, "C": 2}  # type: ignore[arg-type]
    )  # fmt: skip
    votes_ = judgments_from_rows([ranked])
    assert votes_.ranks.tolist() == [[1, 3, 2]]
    assert votes_.place.tolist() == [[1, 0, 2]]
    rated = row("", ("u",), ("1",), kind="rating", ratings={"q": 4, "f": 2})  # type: ignore[arg-type]
    assert judgments_from_rows([rated], scales=("f", "q")).ratings.tolist() == [[2, 4]]
    with pytest.raises(UserError, match="one kind"):
        judgments_from_rows([ranked, rated])


def equal(a: Judgments, b: Judgments, without: tuple[str, ...] = ()) -> None:
    for field in dataclasses.fields(Judgments):
        if field.name not in without:
            first, second = getattr(a, field.name), getattr(b, field.name)
            assert np.array_equal(first, second), field.name


def test_a_store_and_its_export_give_the_same_arrays(open_study: Open) -> None:
    store = open_study("gold_share = 0.3\nrepeat_share = 0.5\n" + GOLD, prompts=20)
    people = [Client(store) for _ in range(3)]
    for number, client in enumerate(people):
        client.begin()
        for i in range(17):
            client.vote(("a", "b", "tie", "bad", "skip", "a")[(i + number) % 6])
    last = people[0].vote("b")
    people[0].api("undo", {"vote": last["vote"]})
    store.write(
        lambda c: withdraw(c, find_person(c, people[2].link.pseudonym), delete_comments=True, actor="test")
    ).result()
    study = store.study()
    read = store.read(lambda c: read_judgments(c, study))
    rows = store.read(lambda c: list(votes(c)))
    exported = judgments_from_rows(rows, policies=read.policies)
    assert len(read) == len(rows) == 34
    assert read.gold.any()
    assert (read.repeat_of >= 0).any()
    # an export has no pseudonyms of people without votes, and no answers to gold items
    equal(read, exported, without=("people", "person", "right"))
    assert [read.people[i] for i in read.person] == [r["annotator"] for r in rows]
    figures = {p["pseudonym"]: p for p in store.read(lambda c: annotators(c, study))}
    for number, name in enumerate(read.people):
        of_person = read.take((read.person == number) & read.gold & read.answered)
        assert (of_person.right == 1).sum() == figures[name]["gold_right"]
        assert len(of_person) == figures[name]["gold_total"]
    assert (read.right[~read.gold] == -1).all()
    assert read.counted.sum() == sum(
        r["choice"] != "skip" and not r["gold"] and r["repeat_of"] is None for r in rows
    )  # fmt: skip


def test_judges_are_never_mixed_with_people(open_study: Open) -> None:
    store = open_study(prompts=6)
    client = Client(store)
    client.begin()
    for _ in range(4):
        client.vote("a")
    copied = sa.select(tables.vote).limit(1)

    def judge(c: sa.Connection) -> None:
        values = dict(c.execute(copied).one()._mapping)
        del values["id"]
        c.execute(sa.insert(tables.vote).values(**values | {"source": "judge"}))

    store.write(judge).result()
    study = store.study()
    assert len(store.read(lambda c: read_judgments(c, study))) == 4


@pytest.mark.parametrize("choice", ["a", "unparsed", "refused"])
def test_answers_of_judges_are_no_votes(choice: str) -> None:
    row = {"kind": "pair", "choice": choice, "policies": ["a", "b"], "completions": ["x", "y"], "source": "judge"}
    with pytest.raises(UserError, match="LLM judge"):
        judgments_from_rows([row])


@pytest.mark.parametrize("kind", ["rating", "ranking"])
def test_other_kinds_are_read(kind: str, open_study: Open) -> None:
    scales = '[[scales]]\nname = "q"\n' if kind == "rating" else ""
    store = open_study(f'kind = "{kind}"\n{scales}', prompts=3, completions=3)
    client = Client(store)
    client.begin()
    for i in range(3):
        item = client.api("next")
        answer = {"ratings": {"q": i + 1}} if kind == "rating" else {"ranking": {"A": 1, "B": 2, "C": 2}}
        client.api("vote", {"lease": item["lease"], **answer})
    study = store.study()
    read = store.read(lambda c: read_judgments(c, study))
    equal(read, judgments_from_rows(store.read(lambda c: list(votes(c))), policies=read.policies, scales=read.scales))
    if kind == "rating":
        assert read.ratings.tolist() == [[1], [2], [3]]
    else:
        assert (read.ranks[read.place == 0] == 1).all()
        assert (np.sort(read.ranks) == [1, 2, 2]).all()


def test_an_empty_study_has_no_votes() -> None:
    assert len(judgments_from_rows([])) == 0

"""Votes are stored once, undone by rows that supersede them, and counted in the places of their items."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from rlalign.feedback import tables
from rlalign.feedback.progress import votes
from rlalign.feedback.store import Store, now_ms
from rlalign.feedback.votes import Ballot, expire
from tests.feedback.conftest import Client, check_places

Open = Callable[..., Store]


def count(store: Store) -> int:
    return store.read(lambda c: len(list(votes(c))))


def test_the_same_answer_again_is_the_same_vote(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    item = client.api("next")
    body = {"lease": item["lease"], "choice": "a", "comment": "clear"}
    first = client.api("vote", body)
    # the measured times may differ when a browser sends a vote again
    assert client.api("vote", {**body, "active_ms": 5}) == first
    assert client.api("vote", {**body, "choice": "b"}, 409)["error"]["code"] == "answered"
    assert count(store) == 1
    check_places(store)


def test_undo_gives_the_item_back(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    first = client.vote("a")
    lease = client.api("undo", {"vote": first["vote"]})["lease"]
    assert count(store) == 0
    check_places(store)
    again = client.api("next")
    assert again["lease"] == lease
    second = client.api("vote", {"lease": lease, "choice": "b"})
    assert second["vote"] != first["vote"]
    assert [row["choice"] for row in store.read(lambda c: list(votes(c)))] == ["b"]
    assert client.api("undo", {"vote": first["vote"]}, 409)
    check_places(store)


def test_undo_of_a_skip_takes_the_place_again(open_study: Open) -> None:
    store = open_study("votes_per_item = 1", prompts=1)
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    skip = one.vote("skip")
    check_places(store)
    client_item = two.api("next")
    assert client_item is not None
    # the other person has the only place now
    assert one.api("undo", {"vote": skip["vote"]}, 409)["error"]["code"] == "complete"
    two.api("vote", {"lease": client_item["lease"], "choice": "tie"})
    check_places(store)


def test_a_skip_is_no_judgement(open_study: Open) -> None:
    store = open_study("votes_per_item = 1", prompts=1)
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    one.vote("skip")
    assert one.api("next") is None  # not the same item again
    two.vote("b")
    assert two.api("next") is None
    check_places(store)


def test_undo_only_the_last_vote_and_only_ones_own(open_study: Open) -> None:
    store = open_study()
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    first, _ = one.vote("a"), one.vote("b")
    assert one.api("undo", {"vote": first["vote"]}, 409)["error"]["code"] == "not last"
    assert two.api("undo", {"vote": first["vote"]}, 404)
    assert one.api("undo", {"vote": 10**9}, 404)


def test_an_undone_answer_does_not_bring_a_break_closer(open_study: Open) -> None:
    client = Client(open_study("break_items = 3"))
    client.begin()
    for _ in range(3):
        client.api("undo", {"vote": client.vote()["vote"]})
    client.vote()
    client.vote()
    client.api("next")
    client.vote()
    assert client.api("next", status=403)["error"]["code"] == "break"


def test_an_undo_is_refused_after_ten_minutes(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(open_study())
    client.begin()
    saved = client.vote("a")
    later = now_ms() + 11 * 60_000
    monkeypatch.setattr("rlalign.feedback.votes.now_ms", lambda: later)
    assert client.api("undo", {"vote": saved["vote"]}, 409)


def test_an_expired_lease_returns_its_item(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_study("votes_per_item = 1\nlease_minutes = 1", prompts=1)
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    item = one.api("next")
    assert two.api("next") is None
    later = now_ms() + 61_000
    monkeypatch.setattr("rlalign.feedback.votes.now_ms", lambda: later)
    monkeypatch.setattr("rlalign.feedback.items.now_ms", lambda: later)
    assert store.write(expire).result() == 1
    check_places(store)
    assert one.api("vote", {"lease": item["lease"], "choice": "a"}, 409)["error"]["code"] == "expired"
    two.vote("b")
    check_places(store)
    assert count(store) == 1


def test_a_heartbeat_keeps_the_item(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_study("lease_minutes = 1")
    client = Client(store)
    client.begin()
    item = client.api("next")
    later = now_ms() + 50_000
    monkeypatch.setattr("rlalign.feedback.items.now_ms", lambda: later)
    expires = client.api("heartbeat", {"lease": item["lease"], "visible_ms": 40_000})["expires"]
    assert expires == later + 60_000
    assert Client(store).api("heartbeat", {"lease": item["lease"], "visible_ms": 1}, 404)


def test_active_time_is_capped_by_the_servers(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    client.vote("a", active_ms=10**9)
    row = store.read(lambda c: c.execute(sa.select(tables.vote)).one())
    assert row.active_ms <= row.elapsed_ms < 60_000


def test_the_digest_of_an_answer_leaves_times_out() -> None:
    assert Ballot("a", active_ms=1).digest() == Ballot("a", active_ms=2, seen=True, unfolded=True).digest()
    assert len({Ballot("a").digest(), Ballot("b").digest(), Ballot("a", comment="x").digest()}) == 3


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("pair", {"choice": ""}, "choice"),
        ("pair", {"choice": "left"}, "choice"),
        ("pair", {"choice": "a", "comment": "x" * 2001}, "comment"),
        ("pair", {"choice": "a", "comment": "\x00"}, "comment"),
        ("pair", {"choice": "a", "more": 1}, "more"),
        ("pair", {"choice": "a", "active_ms": -1}, "active_ms"),
        ("pair", {"choice": "a", "ratings": {"help": 3}}, "ratings"),
        ("pair", {"choice": "skip", "ranking": {"A": 1}}, "ranking"),
        ("rating", {"ratings": {"help": 3}, "choice": "a"}, "choice"),
        ("rating", {"ratings": {}}, "ratings.help"),
        ("rating", {"ratings": {"help": 6}}, "ratings.help"),
        ("rating", {"ratings": {"help": 1, "other": 1}}, "ratings"),
        ("ranking", {"ranking": {"A": 1}}, "ranking"),
        ("ranking", {"ranking": {"A": 1, "B": 4}}, "ranking"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_by_field(
    kind: str, body: dict[str, object], field: str, open_study: Open
) -> None:
    scales = '[[scales]]\nname = "help"\n' if kind == "rating" else ""
    client = Client(open_study(f'kind = "{kind}"\n{scales}'))
    client.begin()
    lease = client.api("next")["lease"]
    assert client.api("vote", {"lease": lease, **body}, 422)["error"]["field"].startswith(field)


def test_ratings_and_rankings_are_stored(open_study: Open) -> None:
    store = open_study('kind = "rating"\n[[scales]]\nname = "help"\n[[scales]]\nname = "truth"\npoints = 7\n')
    client = Client(store)
    client.begin()
    lease = client.api("next")["lease"]
    client.api("vote", {"lease": lease, "ratings": {"help": 5, "truth": 7}})
    assert store.read(lambda c: [row["ratings"] for row in votes(c)]) == [{"help": 5, "truth": 7}]


def test_rankings_are_stored(open_study: Open) -> None:
    store = open_study('kind = "ranking"', completions=4)
    client = Client(store)
    client.begin()
    item = client.api("next")
    assert [c["label"] for c in item["completions"]] == ["A", "B", "C", "D"]
    client.api("vote", {"lease": item["lease"], "ranking": {"A": 1, "B": 2, "C": 2, "D": 4}})
    (row,) = store.read(lambda c: list(votes(c)))
    assert row["ranking"] == {"A": 1, "B": 2, "C": 2, "D": 4}
    assert sorted(row["policies"]) == ["fourth", "left", "right", "third"]
    assert row["completions"] == [c["text"] for c in item["completions"]]

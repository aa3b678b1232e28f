"""People: links, the steps before the first item, and ways to leave."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.errors import NotFound, SignedOut
from rlalign.feedback.people import erase, find_link, find_person, forget, invite, revoke, sign_in, signed_in
from rlalign.feedback.progress import annotators, votes
from rlalign.feedback.store import Store, now_ms
from tests.feedback.conftest import CHECK, PRACTICE, Client, check_places

Open = Callable[..., Store]


def test_tokens_and_cookies_are_stored_as_digests(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    stored = store.read(lambda c: [str(row) for t in tables.metadata.sorted_tables for row in c.execute(sa.select(t))])
    assert not any(client.link.token in row for row in stored)
    assert not any(value in row for row in stored for value in client.http.cookies.values())


def test_unknown_revoked_and_expired_links_are_refused_alike(open_study: Open) -> None:
    store = open_study()

    def refusal(token: str) -> str:
        with pytest.raises(NotFound) as error:
            store.read(lambda c: find_link(c, token, ("annotator",)))
        return str(error.value)

    (revoked,), (expired,), (admin,) = (
        store.write(lambda c, days=days, scope=scope: invite(c, 1, days, scope)).result()  # type: ignore[misc]  # of now
        for days, scope in ((1, "annotator"), (1, "annotator"), (1, "admin"))
    )
    store.write(lambda c: revoke(c, find_person(c, revoked.pseudonym), "me")).result()
    past = sa.update(tables.annotator).where(tables.annotator.c.pseudonym == expired.pseudonym).values(expires=1)
    store.write(lambda c: c.execute(past)).result()
    assert len({refusal(x) for x in ("unknown", revoked.token, expired.token, admin.token)}) == 1


def test_a_revoked_person_is_signed_out_and_the_votes_stay(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    client.vote("a")
    client.api("next")
    store.write(lambda c: revoke(c, find_person(c, client.link.pseudonym), "me")).result()
    client.api("next", status=401)
    assert client.http.get("/").status_code == 401
    assert len(store.read(lambda c: list(votes(c)))) == 1
    check_places(store)


def test_the_steps_come_in_order(open_study: Open) -> None:
    store = open_study(PRACTICE + CHECK)
    client = Client(store)
    client.api("next", status=403)
    client.api("consent", {"version": "other", "agreed": True}, 409)
    me = client.http.get("/api/me").json()
    client.api("consent", {"version": me["consent_version"], "agreed": False}, 403)
    client.begin()
    practice = client.api("next")
    assert (practice["practice"], practice["check"]) == (True, False)
    assert [c["text"] for c in practice["completions"]] == ["4", "5"]  # explanations name the labels
    client.api("vote", {"lease": practice["lease"], "choice": "b"})
    assert client.http.get("/api/me").json()["state"] == "explanation"
    page = client.http.get("/").text
    assert "Four is <strong>right</strong>." in page
    client.api("continue")
    check = client.api("next")
    assert (check["practice"], check["check"]) == (False, True)
    client.api("vote", {"lease": check["lease"], "choice": "a"})
    item = client.api("next")
    assert (item["practice"], item["check"]) == (False, False)
    assert store.read(lambda c: list(votes(c))) == []  # practice and check are no votes


def test_a_check_has_two_tries(open_study: Open) -> None:
    client = Client(open_study(CHECK))
    client.begin()
    for _ in range(2):
        item = client.api("next")
        assert item["check"]
        client.api("vote", {"lease": item["lease"], "choice": "b"})
    assert client.api("next", status=403)["error"]["code"] == "failed"
    assert client.http.get("/").status_code == 200


def test_the_second_try_can_pass(open_study: Open) -> None:
    client = Client(open_study(CHECK))
    client.begin()
    for choice in ("b", "a"):
        client.vote(choice)
    assert not client.api("next")["check"]


def test_a_break_is_suggested(open_study: Open) -> None:
    client = Client(open_study("break_items = 2"))
    client.begin()
    client.vote()
    client.vote()
    assert client.api("next", status=403)["error"]["code"] == "break"
    client.api("continue")
    client.vote()


def test_withdrawn_votes_leave_and_others_get_the_items(open_study: Open) -> None:
    store = open_study("votes_per_item = 1", prompts=2)
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    one.vote("a", comment="mine")
    one.vote("b")
    assert two.api("next") is None
    one.api("withdraw", {"confirm": True, "delete_comments": True})
    check_places(store)
    assert store.read(lambda c: list(votes(c))) == []
    assert store.read(lambda c: c.execute(sa.select(tables.comment)).all()) == []
    two.vote("a")
    two.vote("a")
    check_places(store)
    assert one.api("withdraw", {"confirm": True}, 409)
    assert one.api("next", status=403)["error"]["code"] == "withdrawn"


def test_forget_leaves_nothing_of_the_person_but_votes(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    client.vote("a", comment="my name is Ada")
    name = client.link.pseudonym
    new = store.write(lambda c: forget(c, find_person(c, name), "me")).result()
    rows = store.read(lambda c: [str(row) for t in tables.metadata.sorted_tables for row in c.execute(sa.select(t))])
    assert not any(name in row or "Ada" in row for row in rows)
    assert store.read(lambda c: c.execute(sa.select(tables.session)).all()) == []
    assert [row["annotator"] for row in store.read(lambda c: list(votes(c)))] == [new]
    client.api("next", status=401)
    check_places(store)
    with pytest.raises(UserError, match="unknown annotator"):
        store.read(lambda c: find_person(c, name))


def test_erase_deletes_the_votes_of_one_person(open_study: Open) -> None:
    store = open_study("votes_per_item = 1", prompts=3)
    one, two = Client(store), Client(store)
    one.begin()
    two.begin()
    first = one.vote("a", comment="x")
    one.api("undo", {"vote": first["vote"]})
    one.vote("b")
    two.vote("a")
    count = store.write(lambda c: erase(c, find_person(c, one.link.pseudonym), "me")).result()
    assert count == 3  # the vote, the row that undoes it, the second vote
    left = store.read(lambda c: c.execute(sa.select(tables.vote.c.annotator)).scalars().all())
    assert left == [two.id]
    check_places(store)


def test_a_link_for_a_crowd_makes_a_person_per_id(open_study: Open) -> None:
    store = open_study("completion_code = true")
    (link,) = store.write(lambda c: invite(c, 1, None, "crowd")).result()
    for pid in ("p1", "p2", "p1"):
        store.write(lambda c, pid=pid: sign_in(c, link.token, ("crowd",), {"PROLIFIC_PID": pid})).result()  # type: ignore[misc]  # of now
    people = store.read(lambda c: annotators(c, store.study()))
    assert sorted(row["state"] for row in people) == ["crowd", "invited", "invited"]
    stored = store.read(lambda c: c.execute(sa.select(tables.annotator.c.crowd_json)).scalars().all())
    assert [s for s in stored if s] == ['{"PROLIFIC_PID": "p1"}', '{"PROLIFIC_PID": "p2"}']
    assert all("p1" not in str(row) for row in store.read(lambda c: list(votes(c))))


def test_people_of_a_crowd_leave_with_their_link(open_study: Open) -> None:
    store = open_study()
    (link,) = store.write(lambda c: invite(c, 1, 3.0, "crowd")).result()
    values = [
        store.write(lambda c, pid=pid: sign_in(c, link.token, ("crowd",), {"PID": pid})).result()  # type: ignore[misc]  # of now
        for pid in ("p1", "p2")
    ]
    people = store.read(lambda c: [signed_in(c, value, "annotator") for value in values])
    assert all(person.expires is not None for person in people)
    store.write(lambda c: revoke(c, find_person(c, link.pseudonym), "me")).result()
    for value in values:
        with pytest.raises(SignedOut):
            store.read(lambda c, value=value: signed_in(c, value, "annotator"))  # type: ignore[misc]  # of now


def test_a_cookie_is_valid_for_sixty_days(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(open_study())
    later = now_ms() + 61 * 86_400_000
    monkeypatch.setattr("rlalign.feedback.people.now_ms", lambda: later)
    assert client.http.get("/api/me").status_code == 401


def test_a_failed_check_is_a_state(open_study: Open) -> None:
    store = open_study(CHECK)
    client = Client(store)
    client.begin()
    client.vote("b")
    client.vote("b")
    assert [row["state"] for row in store.read(lambda c: annotators(c, store.study()))] == ["failed"]


def test_many_people_have_different_pseudonyms(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one short name left, longer numbers are taken instead of a search without end."""
    monkeypatch.setattr("rlalign.feedback.people._ADJECTIVES", ("calm",))
    monkeypatch.setattr("rlalign.feedback.people._NOUNS", ("elm",))
    store = open_study()
    links = store.write(lambda c: invite(c, 950, None)).result()
    assert len({link.pseudonym for link in links}) == 950
    assert any(len(link.pseudonym) > len("calm-elm-123") for link in links)

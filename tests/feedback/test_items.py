"""Items: each is judged by as many people as needed, once per person, on balanced sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from threading import Thread

import pytest
import sqlalchemy as sa

from rlalign.feedback import tables
from rlalign.feedback.people import invite
from rlalign.feedback.progress import votes
from rlalign.feedback.simulate import Taste, simulate
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background
from tests.feedback.conftest import GOLD, Client, check_places

Open = Callable[..., Store]


def test_people_at_once_complete_each_item_exactly(open_study: Open) -> None:
    """Six people at six threads, in a server on a port: no item over its votes, nobody twice on one item."""
    store = open_study("votes_per_item = 2", prompts=12)
    links = [link.path for link in store.write(lambda c: invite(c, 6, None)).result()]
    with in_background(store) as address:
        done = simulate(address, links, [Taste(skips=0.0)] * 6, len)
    assert sum(done) == 24
    rows = store.read(lambda c: list(votes(c)))
    assert set(Counter(row["item"] for row in rows).values()) == {2}
    assert max(Counter((row["item"], row["annotator"]) for row in rows).values()) == 1
    check_places(store)


def test_two_tabs_show_the_same_item(open_study: Open) -> None:
    store = open_study()
    client = Client(store)
    client.begin()
    leases: list[int] = []
    tabs = [Thread(target=lambda: leases.append(client.api("next")["lease"])) for _ in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(leases) == 4
    assert len(set(leases)) == 1
    check_places(store)


def test_sides_are_balanced_and_not_foreseeable(open_study: Open) -> None:
    """60 pairs by a biased coin, at a fixed seed of the person."""
    store = open_study("votes_per_item = 1\nbreak_items = 1000", prompts=60)
    client = Client(store)
    store.write(lambda c: c.execute(sa.update(tables.annotator).values(seed=1))).result()
    client.begin()
    shown = []
    for _ in range(60):
        item = client.api("next")
        shown.append(item["completions"][0]["text"].split()[0])
        client.api("vote", {"lease": item["lease"], "choice": "a"})
    left = shown.count("left")
    assert abs(left - 30) <= 8
    changes = sum(a != b for a, b in pairwise(shown))
    assert changes < 59


def test_nothing_of_an_item_names_its_policy(open_study: Open) -> None:
    client = Client(open_study(prompts=3))
    client.begin()
    item = client.api("next")
    assert set(item) == {
        "lease", "expires", "kind", "practice", "check", "language", "prompt", "completions", "scales"
    }  # fmt: skip
    assert {key for completion in item["completions"] for key in completion} == {"label", "text", "html", "cut"}


def test_gold_questions_look_like_others_and_count_for_no_item(open_study: Open) -> None:
    store = open_study("gold_share = 0.5\n" + GOLD, prompts=8)
    client = Client(store)
    client.begin()
    keys = set()
    while (item := client.api("next")) is not None:
        keys.add((tuple(sorted(item)), item["kind"], item["practice"], item["check"]))
        client.api("vote", {"lease": item["lease"], "choice": "a"})
    assert len(keys) == 1
    rows = store.read(lambda c: list(votes(c)))
    assert sum(row["gold"] for row in rows) == 1
    assert sum(not row["gold"] for row in rows) == 8
    check_places(store)


def test_items_are_repeated_after_a_while(open_study: Open) -> None:
    store = open_study("repeat_share = 0.5", prompts=30)
    client = Client(store)
    client.begin()
    for _ in range(40):
        if (item := client.api("next")) is None:
            break
        client.api("vote", {"lease": item["lease"], "choice": "a"})
    rows = store.read(lambda c: list(votes(c)))
    repeated = [row for row in rows if row["repeat_of"] is not None]
    assert repeated
    order = {row["item"]: place for place, row in enumerate(rows)}
    assert all(order[row["item"]] - order[row["repeat_of"]] >= 10 for row in repeated)
    check_places(store)


def test_a_person_stops_at_the_limit(open_study: Open) -> None:
    client = Client(open_study("items_per_person = 2"))
    client.begin()
    assert client.http.get("/api/me").json()["progress"] == {"done": 0, "left_for_you": 2}
    client.vote()
    client.vote()
    assert client.api("next") is None
    assert client.http.get("/api/me").json()["progress"] == {"done": 2, "left_for_you": 0}


def test_priority_is_followed(open_study: Open) -> None:
    store = open_study('selection = "priority"\nvotes_per_item = 1', prompts=5)
    ids = store.read(lambda c: c.execute(sa.select(tables.item.c.id)).scalars().all())
    order = random.Random(3).sample(list(ids), len(ids))
    for rank, item_id in enumerate(order):
        query = sa.update(tables.item).where(tables.item.c.id == item_id).values(priority=-float(rank))
        store.write(lambda c, query=query: c.execute(query)).result()  # type: ignore[misc]  # the query of now
    client = Client(store)
    client.begin()
    for _ in order:
        client.vote()
    assert store.read(lambda c: [row["item"] for row in votes(c)]) == order


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_random_selection_is_uniform(open_study: Open) -> None:
    """The first item of 300 people over 6 items: chi-square, 5 degrees of freedom, false alarm 1e-4 (25.7)."""
    from rlalign.feedback.selection import at_random

    store = open_study(prompts=6)
    ids = store.read(lambda c: c.execute(sa.select(tables.item.c.id).order_by(tables.item.c.id)).scalars().all())
    for place, item_id in enumerate(ids):  # equal gaps, so that each is equally probable
        query = sa.update(tables.item).where(tables.item.c.id == item_id).values(place=(place + 0.5) / 6)
        store.write(lambda c, query=query: c.execute(query)).result()  # type: ignore[misc]  # the query of now
    counts: Counter[int] = Counter()

    def first(c: sa.Connection, seed: int) -> int:
        for query, parameters in at_random(random.Random(seed)):
            found = c.execute(query, {"person": 10**6, **parameters}).scalar_one_or_none()
            if found is not None:
                return int(found)
        raise AssertionError

    for seed in range(300):
        counts[store.read(lambda c, seed=seed: first(c, seed))] += 1  # type: ignore[misc]  # the seed of now
    assert sum((counts[i] - 50) ** 2 / 50 for i in ids) < 25.7

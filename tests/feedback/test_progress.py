"""Counts for the administrator, and exported rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest

from rlalign.feedback.progress import annotators, progress, votes
from rlalign.feedback.store import Store
from tests.feedback.conftest import GOLD, Client

Open = Callable[..., Store]
pytestmark = pytest.mark.parametrize("location", ["sqlite"], indirect=True)


def test_counts(open_study: Open) -> None:
    store = open_study("votes_per_item = 1", prompts=3)
    client = Client(store)
    client.begin()
    client.vote("a")
    client.vote("skip")
    client.api("next")
    counts = store.read(progress)
    assert counts["rate_per_day"] == 1  # not the skip
    assert (counts["items"], counts["done_items"], counts["votes"], counts["needed"], counts["open"]) == (3, 1, 1, 3, 1)
    (row,) = store.read(lambda c: annotators(c, store.study()))
    assert (row["votes"], row["skips"], row["state"]) == (1, 1, "active")


@pytest.mark.parametrize("right", [True, False])
def test_gold_answers_are_judged_on_the_sides_of_the_screen(right: bool, open_study: Open) -> None:
    store = open_study("gold_share = 0.5\n" + GOLD, prompts=8)
    for _ in range(4):  # different sides for different people
        client = Client(store)
        client.begin()
        while (item := client.api("next")) is not None:
            texts = [c["text"] for c in item["completions"]]
            wanted = "2" if right else "3"
            choice = "ab"[texts.index(wanted)] if wanted in texts else "tie"
            client.api("vote", {"lease": item["lease"], "choice": choice})
    rows = store.read(lambda c: annotators(c, store.study()))
    assert sum(row["gold_total"] for row in rows) > 1
    assert all(row["gold_right"] == (row["gold_total"] if right else 0) for row in rows)


def test_exports_hold_the_shown_order_and_no_internal_number(open_study: Open) -> None:
    store = open_study(prompts=4)
    client, admin = Client(store), Client(store, "admin")
    client.begin()
    shown = []
    for comment in ("=1+1", "a\nb", "中文"):
        item = client.api("next")
        shown.append([c["text"] for c in item["completions"]])
        client.api("vote", {"lease": item["lease"], "choice": "a", "comment": comment})
    lines = admin.http.get("/admin/api/export.jsonl").text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["completions"] for row in rows] == shown
    assert all(row["policies"] == [text.split()[0] for text in row["completions"]] for row in rows)
    assert [row["comment"] for row in rows] == ["=1+1", "a\nb", "中文"]
    assert {row["annotator"] for row in rows} == {client.link.pseudonym}
    table = list(csv.DictReader(io.StringIO(admin.http.get("/admin/api/export.csv").text)))
    assert [row["comment"] for row in table] == ["'=1+1", "a\nb", "中文"]
    assert json.loads(table[0]["completions"]) == shown[0]
    assert {row["gold"] for row in table} == {"false"}
    assert all("comment" not in row for row in store.read(lambda c: list(votes(c, comments=False))))
    assert store.read(progress)["looks"] == 2

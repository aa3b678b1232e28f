"""Selection by uncertainty: batches, their random share, the items that people get, and the weights."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command

from rlalign.errors import UserError
from rlalign.feedback import enrollment, migrations, sampling, tables
from rlalign.feedback.enrollment import (
    batch_size,
    enroll,
    enroll_next,
    plan_batch,
    read_selected,
    set_priorities,
)
from rlalign.feedback.errors import Conflict
from rlalign.feedback.people import invite
from rlalign.feedback.progress import votes
from rlalign.feedback.simulate import Taste, simulate
from rlalign.feedback.statistics.information import allocate, posterior_mode
from rlalign.feedback.statistics.judgments import read_judgments
from rlalign.feedback.stopping import widest_interval
from rlalign.feedback.store import Store
from rlalign.feedback.study import read_study
from rlalign.feedback.web.serve import in_background
from tests.feedback.conftest import Client, build, check_places, write_study

Open = Callable[..., Store]
BOTH = pytest.mark.parametrize("location", ["sqlite", "postgres"], indirect=True)
UNCERTAINTY = 'selection = "uncertainty"\nvotes_per_item = 1\nbreak_items = 1000\n'


def items_of(store: Store) -> list[Any]:
    return store.read(
        lambda c: list(c.execute(sa.select(tables.item).where(tables.item.c.needed > 0).order_by(tables.item.c.id)))
    )


def enroll_now(store: Store, size: int | None = None) -> Any:
    plan = store.read(lambda c: plan_batch(c, store.study(), size=size))
    if plan is not None:
        store.write(lambda c: enroll(c, plan)).result()
    return plan


@pytest.mark.parametrize("share", ["0.29", "1.1"])
def test_a_random_share_below_three_tenths_is_refused(tmp_path: Path, share: str) -> None:
    with pytest.raises(UserError, match="random_share"):
        read_study(write_study(tmp_path, f'selection = "uncertainty"\nrandom_share = {share}\n'))
    with pytest.raises(UserError, match="selection 'uncertainty': expected kind 'pair', got 'ranking'"):
        read_study(write_study(tmp_path, 'selection = "uncertainty"\nkind = "ranking"\n'))


@BOTH
def test_a_batch_stores_how_each_item_was_selected(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=40, completions=3)
    plan = enroll_now(store)
    assert batch_size(120) == len(plan.items) == 10
    rows = {row.id: row for row in items_of(store)}
    selected = [row for row in rows.values() if row.batch is not None]
    assert {row.id for row in selected} == set(plan.items)
    assert Counter(row.selection for row in selected) == {"random": 3, "fit": 7}
    assert all(0 < row.selection_prob < 1 for row in selected)
    # before the first vote, all pairs of policies are equal: each item has the chance 10 / 120
    assert [row.selection_prob for row in selected] == pytest.approx([1 / 12] * 10, rel=0.2)
    assert [rows[i].priority for i in plan.items] == sorted((rows[i].priority for i in plan.items), reverse=True)
    events = store.read(lambda c: c.execute(sa.select(tables.event.c.detail)).scalars().all())
    assert json.loads(events[-1]) == {"batch": 0, "items": 10, "random": 3, "scores": "fit"}


@BOTH
def test_people_get_the_items_of_the_batches_in_their_order(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=20)
    plan = enroll_now(store, 6)
    client = Client(store)
    client.begin()
    for _ in range(6):
        client.vote()
    assert store.read(lambda c: [row["item"] for row in votes(c)]) == plan.items
    check_places(store)


def test_earlier_batches_are_given_first_and_a_selected_item_stays_in_its_batch(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=30)
    first, second = enroll_now(store, 6), enroll_now(store, 6)
    priority = {row.id: row.priority for row in items_of(store)}
    assert min(priority[i] for i in first.items) > max(priority[i] for i in second.items) > 0
    again = dataclasses.replace(second, number=2, items=first.items)
    store.write(lambda c: enroll(c, again)).result()
    assert {row.id: row.priority for row in items_of(store)} == priority


@BOTH
def test_a_plan_of_an_older_snapshot_is_refused(open_study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plans of one snapshot would be one batch of twice its size, with probabilities of half of it."""
    store = open_study(UNCERTAINTY, prompts=100)
    study = store.study()
    first = store.read(lambda c: plan_batch(c, study))
    assert first is not None
    scores = {row.id: row.id % 7 / 7 for row in items_of(store)}
    store.write(lambda c: set_priorities(c, scores)).result()
    second = store.read(lambda c: plan_batch(c, study))
    assert second is not None
    store.write(lambda c: enroll(c, first)).result()
    with pytest.raises(Conflict, match="expected a plan of batch 1, got one of batch 0; plan it again"):
        store.write(lambda c: enroll(c, second)).result()
    monkeypatch.setattr(enrollment, "_is_due", lambda *_: True)
    monkeypatch.setattr(enrollment, "plan_batch", lambda *_: second)
    assert enroll_next(store, study) == 0
    stored = [row for row in items_of(store) if row.batch is not None]
    assert {row.id for row in stored} == set(first.items)
    assert {(row.batch, row.selection == "scores") for row in stored} == {(0, False)}


def test_items_given_between_two_batches_are_random_ones_of_the_next(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=60)
    enroll_now(store, 10)
    client = Client(store)
    client.begin()
    for _ in range(14):
        client.vote()
    judged = store.read(lambda c: [row["item"] for row in votes(c)])
    rows = {row.id: row for row in items_of(store)}
    between = judged[10:]
    open_places = sorted(row.place for row in rows.values() if row.batch is None)
    assert [rows[i].place for i in between] == open_places[:4]
    # before the next batch they count as one of their own
    selected = store.read(read_selected)
    weights = dict(zip(selected.item.tolist(), selected.weight.tolist(), strict=True))
    assert all(weights[i] > 0 for i in judged)
    assert set(between) <= set(selected.item[selected.random].tolist())
    plan = enroll_now(store, 10)
    at_random = {i for i, is_random in zip(plan.items, plan.random, strict=True) if is_random}
    assert len(at_random) == 4
    assert set(between) <= set(plan.items)
    check_places(store)


def test_the_next_batch_comes_when_half_of_the_places_are_left(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=30)
    study = store.study()
    assert enroll_next(store, study) == 10
    client = Client(store)
    client.begin()
    counts = []
    for _ in range(7):
        client.vote()
        counts.append(enroll_next(store, study))
    assert counts == [0, 0, 0, 0, 10, 0, 0]
    while enroll_now(store):
        pass
    assert enroll_next(store, study) == 0
    assert {row.batch is None for row in items_of(store)} == {False}


def test_votes_move_the_selection_to_the_pairs_that_tell_most(open_study: Open) -> None:
    """Each probability of the second batch follows from the votes of the first by the functions of the statistics."""
    store = open_study(UNCERTAINTY, prompts=100, completions=3)
    enroll_now(store, 60)
    client = Client(store)
    client.begin()
    names = ("left", "right", "third")
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    for number in range(60):
        item = client.api("next")
        shown = [names.index(c["text"].split()[0]) for c in item["completions"]]
        choice = "ab"[shown.index(min(shown))] if number % 4 else ("tie", "bad")[number % 8 // 4]
        client.api("vote", {"lease": item["lease"], "choice": choice})
        first, second = sorted(shown)
        if choice in "ab":
            wins[first, second] += 1
        else:
            ties[first, second] += 1
    plan = enroll_now(store, 40)
    rows = {row.id: row for row in items_of(store)}
    pair_of = {i: tuple((k - 1) % 3 for k in json.loads(row.completion_ids)) for i, row in rows.items()}
    left = np.zeros((3, 3), int)
    for i, row in rows.items():
        left[pair_of[i]] += row.batch != 0
    strengths, nu = posterior_mode(wins, ties)
    wanted = allocate(strengths, nu, np.triu(wins + wins.T + ties, 1), left, 40, 1)
    assert wanted.max() > 1.5 * wanted[np.triu_indices(3, 1)].min()
    for i, probability in zip(plan.items, plan.probability, strict=True):
        by_score = 28 * wanted[pair_of[i]] / left[pair_of[i]] / 40
        assert probability == pytest.approx(by_score + (1 - by_score) * 12 / (240 - 28))


def test_scores_of_an_ensemble_take_the_place_of_the_fit(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=40)
    ids = [row.id for row in items_of(store)]
    liked = set(ids[:7])
    store.write(lambda c: set_priorities(c, {i: float(i in liked) for i in ids})).result()
    plan = enroll_now(store, 10)
    assert plan.scores == "scores"
    by_score = {i for i, is_random in zip(plan.items, plan.random, strict=True) if not is_random}
    assert by_score == liked
    store.write(lambda c: set_priorities(c, {ids[0]: 0.5})).result()  # one score at a time is possible


def test_items_without_a_score_have_the_mean(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=40)
    ids = [row.id for row in items_of(store)]
    store.write(lambda c: set_priorities(c, {ids[0]: 0.0, ids[1]: 2.0})).result()
    plan = enroll_now(store, 10)
    probability = dict(zip(plan.items, plan.probability, strict=True))
    # 7 items by scores of the sum 40: 7/40 for a mean score, and 3 of the other 33 at random
    usual = 7 / 40 + (1 - 7 / 40) * 3 / 33
    assert [p for i, p in probability.items() if i not in ids[:2]] == pytest.approx(
        [usual] * len([i for i in probability if i not in ids[:2]])
    )


@pytest.mark.parametrize(
    ("scores", "match"),
    [({1: -0.1}, "at least 0, got -0.1"), ({1: float("nan")}, "got nan"), ({9999: 1.0}, "got 9999")],
)
def test_wrong_scores_are_refused(open_study: Open, scores: dict[int, float], match: str) -> None:
    store = open_study(UNCERTAINTY)
    with pytest.raises(UserError, match=match):
        store.write(lambda c: set_priorities(c, scores)).result()
    assert {row.score for row in items_of(store)} == {None}


def test_scores_need_a_study_that_reads_them(open_study: Open) -> None:
    store = open_study()
    with pytest.raises(UserError, match="expected a study with the selection 'uncertainty', got 'random'"):
        store.write(lambda c: set_priorities(c, {1: 0.5})).result()


def test_a_study_without_batches_has_equal_weights(open_study: Open) -> None:
    store = open_study("votes_per_item = 1")
    client = Client(store)
    client.begin()
    client.vote()
    client.vote("skip")
    selected = store.read(read_selected)
    assert sorted(selected.weight.tolist()) == [0, 0, 0, 0, 0, 1]
    assert selected.random.tolist() == (selected.weight > 0).tolist()


# on PostgreSQL, an item that another transaction holds is passed over, so that a person can end one item early
@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_a_whole_study_selects_each_item_once_and_counts_them_equally(open_study: Open) -> None:
    """Four simulated people at a server, whose housekeeping selects the batches."""
    store = open_study('selection = "uncertainty"\nvotes_per_item = 2\nbreak_items = 1000', prompts=8, completions=3)
    links = [link.path for link in store.write(lambda c: invite(c, 4, None)).result()]
    with in_background(store) as address:
        assert len([row for row in items_of(store) if row.batch == 0]) == 10
        done = simulate(address, links, [Taste(skips=0.0)] * 4, len)
    assert sum(done) == 48
    check_places(store)
    while enroll_now(store):
        pass
    selected = store.read(read_selected)
    assert selected.weight == pytest.approx(np.ones(24))
    assert selected.random.all()


def test_win_rates_read_the_weights(open_study: Open) -> None:
    store = open_study(UNCERTAINTY, prompts=60)
    ids = [row.id for row in items_of(store)]
    store.write(lambda c: set_priorities(c, {i: 1.0 + 9 * (n < 20) for n, i in enumerate(ids)})).result()
    client = Client(store)
    client.begin()
    for _ in range(2):
        enroll_now(store, 10)
        for _ in range(10):
            client.vote()
    selected = store.read(read_selected)
    weight = dict(zip(selected.item.tolist(), selected.weight.tolist(), strict=True))
    assert max(weight.values()) > 2 * min(w for w in weight.values() if w)
    read = store.read(lambda c: read_judgments(c, store.study()))
    assert 1 / read.probability == pytest.approx([weight[i] for i in read.item.tolist()])


def test_the_stop_rule_reads_the_weights() -> None:
    rows = [
        {
            "gold": False,
            "repeat_of": None,
            "choice": "a" if i % 2 else "b",
            "policies": ("x", "y"),
            "group": i,
            "item": i,
        }
        for i in range(60)
    ]
    plain = widest_interval(rows)
    assert widest_interval(rows, dict.fromkeys(range(60), 1.0)) == plain
    # half of the items have no weight: the interval is as wide as without them, but for the two added votes
    half = widest_interval(rows, {i: 2.0 * (i < 30) for i in range(60)})
    assert 1.25 < half / plain < 1.5


# ---- the page ----


def test_the_figures_of_the_page_are_those_of_the_benchmark() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/concepts/feedback.md").read_text(encoding="utf-8")
    rows = json.loads((root / "benchmarks/results/feedback_selection.json").read_text())["rows"]

    def share(row: dict[str, Any]) -> str:
        return f"{100 * row['saved']:.1f} ± {100 * row['saved_se']:.1f} %"

    expected = []
    for row in rows:
        if row["part"] == "win_rates":
            bias = f"{100 * row['bias']:.2f} ± {100 * row['bias_se']:.2f}"
            coverage = f"{100 * row['coverage']:.1f} ± {100 * row['coverage_se']:.1f} %"
            expected.append(f"| {row['estimate']} | {bias} | {100 * row['rmse']:.2f} | {coverage} |")
        elif row["part"] == "accuracy":
            expected.append(f"{share(row)} ({row['reached']} of {row['studies']})")
        elif row["arm"] == "fit":
            expected.append(f"| {row['board']} |" if row["interval"] == "mean" else f"| {share(row)} |")
            expected.append(share(row))
    assert len(expected) == 5 + 6 + 24
    assert [figure for figure in expected if figure not in page] == []


# ---- migration ----


@BOTH
def test_a_store_of_the_first_version_gets_the_columns(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        patch.setattr(migrations, "newest", lambda: "0001")
        patch.setattr(sampling, "VERSION", 1)
        old = build(write_study(tmp_path), location)
        columns = old.read(lambda c: {column["name"] for column in sa.inspect(c).get_columns("item")})
        assert not columns & {"score", "batch"}
        old.close()
    monkeypatch.chdir(tmp_path)  # pg_dump writes its copy here
    with Store(location) as store:
        rows = items_of(store)
        assert len(rows) == 6
        assert {(row.score, row.batch, row.selection_prob) for row in rows} == {(None, None, 1.0)}
        assert store.read(lambda c: c.execute(sa.select(tables.study.c.schema_version)).scalar_one()) == 2
        assert store.study().random_share == 0.3
        client = Client(store)
        client.begin()
        client.vote()

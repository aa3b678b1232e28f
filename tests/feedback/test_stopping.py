"""The stop rule: a number of votes or a width, and nothing that depends on who is ahead."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlalign.feedback.stopping import complete, is_complete, widest_interval
from rlalign.feedback.store import Store
from tests.feedback.conftest import Client

Open = Callable[..., Store]


def row(prompt: int, choice: str, policies: tuple[str, str] = ("x", "y"), **more: Any) -> dict[str, Any]:
    return {"group": prompt, "choice": choice, "policies": policies, "gold": False, "repeat_of": None, **more}


def test_one_vote_per_prompt_is_students_interval() -> None:
    rng = random.Random(0)
    choices = [rng.choice(("a", "b", "tie", "bad")) for _ in range(40)]
    # with a win and a loss more, which add no degrees of freedom
    scores = np.array([{"a": 1.0, "b": 0.0}.get(c, 0.5) for c in choices] + [1.0, 0.0])
    low, high = stats.t.interval(0.95, 39, loc=scores.mean(), scale=stats.sem(scores))
    assert widest_interval([row(i, c) for i, c in enumerate(choices)]) == pytest.approx(100 * (high - low))


def test_equal_votes_of_a_prompt_are_no_further_observations() -> None:
    rng = random.Random(1)
    choices = [rng.choice("ab") for _ in range(400)]
    once = widest_interval([row(i, c) for i, c in enumerate(choices)])
    thrice = widest_interval([row(i, c) for i, c in enumerate(choices) for _ in range(3)])
    assert thrice == pytest.approx(once)
    assert widest_interval([row(i, c) for i, c in enumerate(choices * 3)]) < 0.6 * once


def test_a_lead_does_not_end_a_study() -> None:
    """A policy that won every vote has an interval of some width all the same."""
    assert widest_interval([row(i, "a") for i in range(30)]) > 10


def test_sides_do_not_matter_and_the_widest_pair_counts() -> None:
    choices = ["a", "b", "a", "a", "tie"] * 10
    plain = [row(i, c) for i, c in enumerate(choices)]
    turned = [row(i, {"a": "b", "b": "a"}.get(c, c), ("y", "x")) for i, c in enumerate(choices)]
    assert widest_interval(turned) == pytest.approx(widest_interval(plain))
    few = [row(i, c, ("x", "z")) for i, c in enumerate(choices[:31])]
    assert widest_interval(plain + few) == pytest.approx(widest_interval(few))
    assert math.isinf(widest_interval(plain + few[:5]))  # too few prompts to say


def test_skips_gold_and_repetitions_are_left_out() -> None:
    plain = [row(i, "ab"[i % 2]) for i in range(32)]
    more = [row(1, "skip"), row(2, "a", gold=True), row(3, "a", repeat_of=4)]
    assert widest_interval(plain + more) == pytest.approx(widest_interval(plain))


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_a_number_of_votes_ends_the_study(open_study: Open) -> None:
    store = open_study("[stop]\nvotes = 2")
    client = Client(store)
    client.begin()
    client.vote("a")
    client.vote("skip")
    study = store.study()
    assert not store.read(lambda c: is_complete(c, study))
    client.vote("b")
    assert store.read(lambda c: is_complete(c, study))
    item = client.api("next")
    store.write(complete).result()
    client.api("vote", {"lease": item["lease"], "choice": "a"})  # the item on the screen is answered
    assert client.api("next") is None
    assert client.http.get("/").status_code == 200


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("width", "ends"), [(99.0, True), (5.0, False)])
def test_a_width_ends_the_study(width: float, ends: bool, open_study: Open) -> None:
    store = open_study(f"[stop]\nwidth = {width}", prompts=40)
    client = Client(store)
    client.begin()
    for i in range(32):
        client.vote("ab"[i % 2])
    study = store.study()
    assert store.read(lambda c: is_complete(c, study)) is ends

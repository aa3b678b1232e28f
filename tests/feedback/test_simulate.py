"""Simulated people choose as their model says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from rlalign.cli import main
from rlalign.feedback.people import invite
from rlalign.feedback.progress import votes
from rlalign.feedback.simulate import Person, Taste, draw_taste, draw_tastes, simulate, simulated_people
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background
from tests.feedback.conftest import Client


def _person(taste: Taste) -> Person:
    """Return a person who is not signed in."""
    person = Person.__new__(Person)
    person.taste, person.rng, person.score = taste, random.Random(0), len
    return person


@pytest.mark.parametrize("gap", [0.0, 0.7, -2.0])
def test_pairs_follow_davidsons_model(gap: float) -> None:
    """20,000 choices: each share within 5 standard deviations of its probability (false alarm below 1e-5)."""
    person = _person(Taste(temperature=0.5, ties=0.4))
    n = 20_000
    drawn = [person._pair(gap, 0.0) for _ in range(n)]
    a, b = math.exp(gap / 0.5), 1.0
    tie = 0.4 * math.sqrt(a * b)
    for choice, weight in (("a", a), ("b", b), ("tie", tie)):
        p = weight / (a + b + tie)
        assert abs(drawn.count(choice) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_extreme_utilities_do_not_overflow() -> None:
    assert _person(Taste(temperature=1e-9))._pair(1e9, -1e9) == "a"


def test_biases_are_for_the_side_and_the_length() -> None:
    person = _person(Taste(score=0.0, length=2.0, side=0.5))
    assert person.utility("x" * 100, left=True) == pytest.approx(2.5)
    assert person.utility("x" * 50, left=False) == pytest.approx(1.0)


def _item(kind: str, *texts: str) -> dict[str, object]:
    completions = [{"label": label, "text": text} for label, text in zip("ABCD", texts, strict=False)]
    scales = [{"name": "help", "points": [1, 2, 3, 4, 5]}]
    return {"kind": kind, "completions": completions, "scales": scales, "practice": False, "check": False}


def _clear(**changes: float) -> Person:
    person = _person(Taste(temperature=1e-3, ties=0.0, skips=0.0, **changes))
    person.known = {}
    return person


def test_a_share_of_the_answers_is_flipped() -> None:
    """4,000 answers: the share within 5 standard deviations of 0.2 (false alarm below 1e-6)."""
    person = _clear(flips=0.2)
    choices = [person.judge(_item("pair", "longer", "long"))["choice"] for _ in range(4000)]
    assert abs(choices.count("b") / 4000 - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 4000)
    person = _clear(flips=1.0)
    assert person.judge(_item("ranking", "longest", "long", "longer"))["ranking"] == {"A": 3, "B": 1, "C": 2}
    assert person.judge(_item("rating", "a text of many words"))["ratings"] == {"help": 1}


@pytest.mark.parametrize("kind", ["pair", "rating", "ranking"])
def test_careless_answers_depend_on_nothing(kind: str) -> None:
    person = _clear(careless=1.0)
    answers = [str(person.judge(_item(kind, "a", "a text of many words"))) for _ in range(300)]
    counts = [answers.count(answer) for answer in sorted(set(answers))]
    assert len(counts) == (5 if kind == "rating" else 2)
    assert min(counts) > 0.5 * 300 / len(counts)


def test_a_careless_person_knows_the_answers_of_practice_and_check() -> None:
    person = _clear(careless=1.0)
    person.known = {("a", "b"): "b"}
    item = {**_item("pair", "a", "b"), "check": True}
    assert {person.judge(item)["choice"] for _ in range(20)} == {"b"}


def test_own_weights_of_words_differ_between_people_and_not_between_calls() -> None:
    one, other = (_person(Taste(score=0.0, own=1.0, words=seed)) for seed in (1, 2))
    assert one.utility("Good, good day", left=False) == one.utility("day good", left=False)
    assert one.utility("day", left=False) != other.utility("day", left=False)
    weights = [one.utility(f"w{i}", left=False) for i in range(2000)]
    assert abs(sum(weights) / 2000) < 5 / math.sqrt(2000)
    assert abs(sum(w * w for w in weights) / 2000 - 1) < 5 * math.sqrt(2 / 2000)
    assert one.utility("w1 w2", left=False) == pytest.approx(weights[1] + weights[2])


def test_tastes_of_people_are_those_without_further_noise() -> None:
    rng = random.Random(3)
    plain = [draw_taste(rng, noise=0.1) for _ in range(3)]
    tastes = draw_tastes(random.Random(3), 3, careless=1, flips=0.1, noise=0.1)
    assert [t.score for t in tastes] == [t.score for t in plain]
    assert [t.careless for t in tastes] == [0.0, 0.0, 1.0]
    assert {t.flips for t in tastes} == {0.1}
    assert len({t.words for t in tastes}) == 3


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
@pytest.mark.parametrize("options", [["--flips", "1.5"], ["--careless", "3"], ["--own", "-1"]])
def test_noise_out_of_range_is_refused(
    location: str, options: list[str], open_study: Callable[..., Store], capsys: pytest.CaptureFixture[str]
) -> None:
    open_study("").close()
    assert main(["feedback", "simulate", location, "--people", "2", *options]) == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["pair", "rating", "ranking"])
def test_people_with_a_clear_taste_find_the_better_one(kind: str, open_study: Callable[..., Store]) -> None:
    scales = '[[scales]]\nname = "help"\n' if kind == "rating" else ""
    store = open_study(f'kind = "{kind}"\nbreak_items = 3\n{scales}', prompts=4)
    links = [x.path for x in store.write(lambda c: invite(c, 2, None)).result()]
    with in_background(store) as address:
        score = lambda text: 10.0 if text.startswith("left") else -10.0  # noqa: E731  # a score in a line
        simulate(address, links, [Taste(temperature=0.01, skips=0.0, ties=0.0)] * 2, score)
    rows = store.read(lambda c: list(votes(c)))
    assert len(rows) == 2 * (8 if kind == "rating" else 4)
    for row in rows:
        best = row["policies"].index("left") if "left" in row["policies"] else None
        if kind == "pair":
            assert row["choice"] == "ab"[best]
        elif kind == "rating":
            assert row["ratings"] == {"help": 5 if best is not None else 1}
        else:
            assert row["ranking"]["AB"[best]] == 1


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
def test_simulated_votes_are_not_mixed_with_those_of_people(
    location: str, open_study: Callable[..., Store], capsys: pytest.CaptureFixture[str]
) -> None:
    open_study("break_items = 3").close()
    trial = ["feedback", "simulate", location, "--people", "1", "--votes", "1", "--reward", "length"]
    assert main(trial) == 0
    assert main(trial) == 0  # others that are simulated
    with Store(location) as store:
        assert store.read(simulated_people) == 2
        person = Client(store)
        person.begin()
        person.vote("a")
    assert main(trial) == 2
    assert "has votes of people" in capsys.readouterr().err
    assert main([*trial, "--force"]) == 0

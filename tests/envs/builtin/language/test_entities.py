"""Tests of Entities: distinct names, unfit country names and rewards."""

import re

import pytest

from rlalign.envs.builtin.language.entities import _countries
from rlalign.envs.registration import make_mdp


@pytest.mark.parametrize("language", ["en", "zh"])
def test_names_and_things_of_a_sentence_are_distinct(language: str) -> None:
    tasks = [make_mdp("entities", language=language).source.get("train", i) for i in range(300)]
    lines = [task.columns["answer"].split("\n") for task in tasks]
    assert any(len(spans) == 3 for spans in lines)
    assert all(len(set(spans)) == len(spans) for spans in lines)
    things = {"en": r"the (\w+) and the (\w+)", "zh": r"看见(\w+)和(\w+)"}[language]
    matches = [re.search(things, str(task.prompt)) for task in tasks]
    pairs = [match.groups() for match in matches if match]
    assert pairs
    assert all(a != b for a, b in pairs)


def test_english_country_names_need_no_article() -> None:
    pytest.importorskip("pycountry")
    names = _countries("en")
    assert len(names) > 180
    assert not {"Netherlands", "United States", "Dominican Republic", "Maldives", "Cook Islands"} & set(names)
    assert {"France", "South Korea", "Poland"} <= set(names)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_complete_spans_of_the_correct_kind_score(language: str, score) -> None:
    mdp = make_mdp("entities", language=language)
    tasks = [mdp.source.get("train", i) for i in range(99)]
    task = next(task for task in tasks if task.columns["answer"].count("\n") == 1)
    answer = task.columns["answer"]
    first, second = answer.split("\n")
    for line in (first, second):
        assert line.split(" | ")[0] in str(task.prompt)
    swapped = first.replace("person", "PLACE").replace("place", "person").replace("PLACE", "place")
    scores = score(
        mdp, task, answer, f"{second}\n{first}", f"{swapped}\n{second}", first, f"{answer}\nx | place", "none"
    )
    assert scores["span_f1"] == pytest.approx([1, 1, 0.5, 2 / 3, 0.8, 0])
    assert scores["total"][0] > max(scores["total"][1:])
    without_names = next(task for task in tasks if task.columns["answer"] == "none")
    totals = score(mdp, without_names, "none", first)["total"]
    assert totals == [pytest.approx(2), pytest.approx(0, abs=0.1)]


def test_names_of_faker_depend_on_the_seed_of_the_environment_alone() -> None:
    faker = pytest.importorskip("faker")
    first = [make_mdp("entities?source=faker&language=zh").source.get("train", i) for i in range(5)]
    faker.Faker.seed(1)
    faker.Faker("zh_CN").name()
    assert first == [make_mdp("entities?source=faker&language=zh").source.get("train", i) for i in range(5)]
    other = [make_mdp("entities?source=faker&language=zh&seed=1").source.get("train", i) for i in range(5)]
    assert first != other

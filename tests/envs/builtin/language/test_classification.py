"""Tests of Classification: labels of generated reviews, rewards and real reviews."""

import re
from collections import Counter

import numpy as np
import pytest

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.language.classification import lexicon_review
from rlalign.envs.registration import make_mdp


def polarity(text: str, language: str) -> str:
    """Return the label of a review from the words of its last clause."""
    good = {"en": "good funny clever moving fresh bright", "zh": "精彩 有趣 出色 感人 动人 优秀"}[language].split()
    last = text.replace(" but ", "|").replace(" and ", "|").replace("但是", "|").replace("而且", "|").split("|")[-1]
    negated = " not " in last or "不" in last
    return "positive" if any(word in last for word in good) != negated else "negative"


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_of_reviews_agree_with_the_label(language: str, level: int) -> None:
    english = {"好评": "positive", "差评": "negative", "positive": "positive", "negative": "negative"}
    counts: Counter[str] = Counter()
    for rng in np.random.default_rng(1).spawn(400):
        record = lexicon_review(rng, language, level)
        text = record["prompt"].split("\n")[1]
        assert polarity(text, language) == english[record["answer"]], text
        assert level > 1 or not {"not", "but", "不", "但"} & {*text.split(), *text}
        counts[record["answer"]] += 1
    assert min(counts.values()) > 150  # both labels: 200 of 400 expected; below 150 once in 10 million


def test_clauses_have_different_subjects() -> None:
    for rng in np.random.default_rng(0).spawn(100):
        text = lexicon_review(rng, "en", 3)["prompt"].split("\n")[1]
        first, second = re.findall(r"the (\w+) is", text)
        assert first != second


def test_only_labels_are_valid(score) -> None:
    mdp = make_mdp("classification")
    task = mdp.source.get("train", 0)
    correct = task.columns["answer"]
    (wrong,) = set(task.columns["labels"]) - {correct}
    both = f"{correct} {wrong}"
    scores = score(mdp, task, correct, wrong, both, f"{correct}!", "", correct.upper() + "\n")
    assert scores["label_match"] == [1, 0, 0, 0, 0, 1]
    assert scores["label_valid"] == [1, 1, 0, 0, 0, 1]


def test_real_reviews_become_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = [{"text": f"review {i} " + "很" * 300, "label": ("positive", "negative")[i % 2]} for i in range(30)]
    monkeypatch.setattr(corpora, "reviews", lambda name: reviews)
    for source, labels in (("imdb", ("positive", "negative")), ("zh", ("好评", "差评"))):
        mdp = make_mdp("classification", source=source)
        tasks = [mdp.source.get("train", i) for i in range(mdp.source.size("train") or 0)]
        assert {task.columns["answer"] for task in tasks} == set(labels)
        assert all(len(mdp.prompt_ids(task)) <= mdp.max_prompt for task in tasks)
        assert "\ufffd" not in "".join(str(task.prompt) for task in tasks)
        number = int(str(tasks[0].prompt).split("review ")[1].split()[0])
        assert tasks[0].columns["answer"] == labels[number % 2]

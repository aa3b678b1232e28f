"""Tests of Constrained: grammar, coverage, order and brevity."""

import pytest

from rlalign.envs.builtin.language import constrained
from rlalign.envs.registration import make_mdp


def test_grammatical_sentences_score_one() -> None:
    good = ["the dog runs in the park", "the small old dog runs in the quiet park"]
    twice = "the dog runs in the park the dog runs in the park"
    bad = ["dog runs park", twice, "in the park the dog runs", "", "the", "the dog runs in the park in"]
    assert constrained.grammatical(good) == [1, 1]
    assert max(constrained.grammatical(bad)) < 0.5
    assert constrained.grammatical(bad[-1:])[0] > constrained.grammatical(bad[:1])[0] > 0


def test_reference_sentence_scores_best(score) -> None:
    mdp = make_mdp("constrained", quality=1)
    task = mdp.source.get("train", 0)
    answer = task.columns["answer"]
    keywords = task.columns["keywords"]
    texts = [
        answer, " ".join(keywords), " ".join(reversed(keywords)), answer.replace(keywords[1], "x"), f"{answer} " * 3
    ]  # fmt: skip
    scores = score(mdp, task, *texts)
    assert scores["coverage"] == [1, 1, 1, 0.75, 1]
    assert scores["keyword_order"][:3] == [1, 1, 0.25]
    assert scores["total"][0] == max(scores["total"]) == pytest.approx(2.5)
    assert scores["brevity"][4] == -1

"""Tests of Summarise: generated headlines, and references of real documents."""

from rlalign.envs.builtin.language import summarise
from rlalign.envs.registration import make_mdp


def test_headline_differs_from_the_document_and_scores_best(score) -> None:
    mdp = make_mdp("summarise")
    task = mdp.source.get("train", 0)
    headline = task.columns["answer"]
    document = str(task.prompt).split("\n")[0]
    assert headline not in document
    scores = score(mdp, task, headline, document, " ".join(reversed(headline.split())), "")
    assert scores["rouge"][0] == 1 > scores["rouge"][1] > 0
    assert scores["copy_penalty"][:2] == [0, -1]
    assert scores["total"][0] == max(scores["total"])
    assert scores["rouge"][2] < 1


def test_real_document_has_a_lead_and_keywords() -> None:
    text = "This picture was better than expected. The picture has a plot; Another picture never did."
    headline, keywords = (summarise.review(text, reference) for reference in ("headline", "keywords"))
    assert headline is not None
    assert headline["answer"] == "This picture was better than expected."
    assert keywords is not None
    assert keywords["answer"].split()[0] == "picture"
    assert len(set(keywords["answer"].split())) == 5
    assert summarise.review("Too short.", "headline") is None

"""Tests of Sentiment: generated and real openings."""

from pathlib import Path

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.language import sentiment
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError


def test_openings_are_distinct_short_and_neutral() -> None:
    texts = [o["prompt"] for o in sentiment.openings()]
    assert len(set(texts)) == 288
    assert all(3 < len(text.split()) < 8 for text in texts)
    score = SentimentIntensityAnalyzer().polarity_scores
    assert [t for t in texts if score(t)["compound"] != 0] == []
    source = make_mdp("sentiment").source
    assert [source.size(s) for s in ("train", "validation", "test")] == [172, 58, 58]


def test_imdb_openings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    rows = [f'"One two<br />three four {i} and more",{i % 2},imdb' for i in range(10)]
    path.write_text("text,label,source\n" + "\n".join([*rows, rows[0], "short,1,imdb", '"a b c d e f",1,rt']))
    monkeypatch.setattr("rlalign.assets.wheel_member", lambda name: path)
    mdp = make_mdp("sentiment", source="imdb")
    tasks = [mdp.source.get(s, i) for s in ("train", "validation", "test") for i in range(mdp.source.size(s) or 0)]  # type: ignore[arg-type]  # strings that are its splits
    assert {t.prompt for t in tasks} == {f"One two three four {i}" for i in range(10)}
    assert tasks[0].columns["label"] in ("positive", "negative")
    with pytest.raises(UserError, match="unknown source 'imbd'"):
        make_mdp("sentiment", source="imbd")


def test_chinese_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"第{i}本书写得非常好，我很喜欢，推荐给大家" for i in range(20)]
    monkeypatch.setattr(corpora, "reviews", lambda name: [{"text": t, "label": "positive"} for t in [*texts, "短"]])
    mdp = make_mdp("sentiment", language="zh")
    assert list(mdp.rewards) == ["snownlp", "repetition", "too_short"]
    prompts = [str(mdp.source.get("train", i).prompt) for i in range(mdp.source.size("train") or 0)]
    assert len(prompts) == 12
    assert set(prompts) <= {t[:6] for t in texts}
    assert list(make_mdp("sentiment").rewards) == ["vader", "repetition", "too_short"]
    with pytest.raises(UserError, match=r"unknown language 'fr'"):
        make_mdp("sentiment", language="fr")

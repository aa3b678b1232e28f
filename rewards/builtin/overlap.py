"""Rewards for overlap with a reference text. An `answer` may be a list of references; the best one counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.columns import per_sample, texts_of
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

# Characters read. These measures are quadratic or slow, and a runaway completion must not stall a run.
_LIMIT = 5_000
_TOKENIZERS = ("13a", "intl", "char", "zh", "none")
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def _score_references(
    completions: Sequence[Any], answer: Any, score: Callable[[str, list[str]], float]
) -> list[float | None]:
    """Return scores in [0, 1] against the references of each sample; None without a reference."""
    values: list[float | None] = []
    for completion, entry in zip(completions, per_sample(answer, len(completions)), strict=True):
        references = [text[:_LIMIT] for text in texts_of(entry)]
        # rounding may give slightly more than 1
        values.append(min(1.0, score(text_of(completion)[:_LIMIT], references)) if references else None)
    return values


@reward("bleu", timeout_s=None, range=(0.0, 1.0))
def bleu(
    completions: Sequence[Any], answer: Any, *, tokenize: str = "13a", lowercase: bool = False, **columns: Any
) -> list[float | None]:
    """Return the sentence BLEU against `answer` (one reference or a list), by sacrebleu.

    With effective order and exp smoothing. The first 5000 characters are read.

    Range: [0, 1]; None without an answer.
    Cost: about 10,000 texts per second on one core.
    Deterministic.
    Hacked by: common n-grams of the references in any order; it does not measure meaning.
    Source: Papineni et al., ACL 2002; Post, A call for clarity in reporting BLEU scores, 2018.

    Args:
        completions: B texts or conversations.
        answer: column of references, or one reference as a parameter.
        tokenize: sacrebleu's tokenizer: 13a, intl, char, zh (for Chinese) or none.
        lowercase: ignore case.
        columns: ignored.

    Raises:
        UserError: an unknown tokenizer.
    """
    metric = _bleu(tokenize, lowercase)
    return _score_references(
        completions, answer, lambda text, references: float(metric.sentence_score(text, references).score) / 100
    )


@lru_cache(maxsize=8)
def _bleu(tokenize: str, lowercase: bool) -> Any:
    from sacrebleu.metrics import BLEU

    if tokenize not in _TOKENIZERS:
        raise UserError(
            f"reward 'bleu', tokenize: expected one of {', '.join(_TOKENIZERS)}, got '{tokenize}'."
            f"{did_you_mean(tokenize, _TOKENIZERS)}"
        )
    return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)


@reward("chrf", timeout_s=None, range=(0.0, 1.0))
def chrf(completions: Sequence[Any], answer: Any, *, word_order: int = 0, **columns: Any) -> list[float | None]:
    """Return the sentence chrF against `answer` (one reference or a list), by sacrebleu; `word_order=2` is chrF++.

    F-score (beta 2) of character n-grams up to 6. The first 5000 characters are read.

    Range: [0, 1]; None without an answer.
    Cost: about 7,000 texts per second on one core.
    Deterministic.
    Hacked by: longer texts than needed, since recall counts four times as much as precision.
    Source: Popovic, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015.

    Args:
        completions: B texts or conversations.
        answer: column of references, or one reference as a parameter.
        word_order: largest order of word n-grams, which are added to the character n-grams; 0: none, 2: chrF++.
        columns: ignored.
    """
    metric = _chrf(word_order)
    return _score_references(
        completions, answer, lambda text, references: float(metric.sentence_score(text, references).score) / 100
    )


@lru_cache(maxsize=4)
def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=word_order)


class _Words:
    """Tokenizer for rouge-score that splits every script; the package's own one keeps ASCII only."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@reward("rouge", timeout_s=None, range=(0.0, 1.0))
def rouge(completions: Sequence[Any], answer: Any, *, kind: str = "rougeL", **columns: Any) -> list[float | None]:
    """Return the ROUGE F1 against `answer` (one reference or a list, the best counts), by rouge-score.

    On words of any script, without stemming. The first 5000 characters are read.

    Range: [0, 1]; None without an answer.
    Cost: about 20,000 texts per second on one core, quadratic in the length for rougeL.
    Deterministic.
    Hacked by: copying the document's first sentences; lists of its keywords for rouge1.
    Source: Lin, ROUGE: a package for automatic evaluation of summaries, 2004.

    Args:
        completions: B texts or conversations.
        answer: column of references, or one reference as a parameter.
        kind: rouge1, rouge2, rougeL or rougeLsum.
        columns: ignored.

    Raises:
        UserError: an unknown kind.
    """
    scorer = _rouge(kind)
    return _score_references(
        completions,
        answer,
        lambda text, references: max(float(scorer.score(reference, text)[kind].fmeasure) for reference in references),
    )


@lru_cache(maxsize=4)
def _rouge(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    if kind not in _ROUGE:
        raise UserError(
            f"reward 'rouge', kind: expected one of {', '.join(_ROUGE)}, got '{kind}'.{did_you_mean(kind, _ROUGE)}"
        )
    return RougeScorer([kind], tokenizer=_Words())


@reward("edit_distance", timeout_s=None, range=(0.0, 1.0))
def edit_distance(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """Return 1 - Levenshtein distance / length of the longer text, of completion and `answer`.

    Surrounding whitespace is ignored. Two empty texts score 1. The first 5000 characters are read.

    Range: [0, 1]; None without an answer.
    Cost: about 4,000 texts per second on one core, quadratic in the length.
    Deterministic.
    Hacked by: frequent letters in the right number; a random text of the right length and alphabet scores above 0.

    Args:
        completions: B texts or conversations.
        answer: column of references (of a list, the best counts), or one reference as a parameter.
        columns: ignored.
    """
    return _score_references(
        completions,
        answer,
        lambda text, references: max(similarity(text.strip(), reference.strip()) for reference in references),
    )


def similarity(a: str, b: str) -> float:
    """Return 1 - Levenshtein(a, b) / max(len a, len b); 1 for two empty texts.

    >>> similarity("kitten", "sitting")  # three edits of seven
    0.5714285714285714
    """
    longer = max(len(a), len(b))
    return 1.0 - levenshtein(a, b) / longer if longer else 1.0


def levenshtein(a: str, b: str) -> int:
    """Return the least number of insertions, deletions and substitutions that turn a into b.

    One row of the distance matrix per character of a. Insertions make a row depend on itself:
    d[j] = min over i <= j of (c[i] + j - i), which is a running minimum of c - j.
    """
    codes = np.array([ord(ch) for ch in b], np.int64)
    positions = np.arange(len(b) + 1)
    row = positions.copy()
    for i, ch in enumerate(a, 1):
        best = np.empty_like(row)  # by deletions and substitutions alone
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(ch)))
        row = np.minimum.accumulate(best - positions) + positions
    return int(row[-1])

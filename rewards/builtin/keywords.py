"""Rewards for using requested keywords, and for using them in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.columns import items_of, per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

_SUFFIXES = ("s", "es", "d", "ed", "ing")  # of inflected English words


@reward("coverage", timeout_s=None, range=(0.0, 1.0))
def coverage(
    completions: Sequence[Any], keywords: Any = None, answer: Any = None, *, inflect: bool = False, **columns: Any
) -> list[float | None]:
    """Return the share of the keywords that the completion uses; 1 for an empty list of keywords.

    As in `coverage?keywords=dog|run`. The words of a multi-word keyword must be adjacent.

    Range: [0, 1]; None without keywords and answer.
    Cost: about 90,000 texts per second on one core.
    Deterministic.
    Hacked by: the bare list of the words; pair it with `fluency` or a length.

    Args:
        completions: B texts or conversations.
        keywords: column of lists, or of texts split at `|`; or one such text as a parameter.
        answer: replaces missing keywords: its distinct words are the keywords.
        inflect: also accept a keyword with -s, -es, -d, -ed or -ing.
        columns: ignored.

    Raises:
        UserError: there is neither `keywords` nor `answer`.
    """
    return _score_words(
        completions, keywords, answer, "coverage", lambda text, listed: _used_share(text, listed, inflect)
    )


@reward("keyword_order", timeout_s=None, range=(0.0, 1.0))
def keyword_order(
    completions: Sequence[Any], keywords: Any = None, answer: Any = None, *, inflect: bool = False, **columns: Any
) -> list[float | None]:
    """Return the length of the longest sequence of keywords that occur in the requested order, as a share of all.

    Keywords, answer and `inflect` are as in `coverage`. The requested order is that of the list.

    Range: [0, 1], at most `coverage`; None without keywords and answer.
    Cost: about 80,000 texts per second on one core.
    Deterministic.
    Hacked by: the bare list of the words.

    Args:
        completions: B texts or conversations.
        keywords: column of lists, or of texts split at `|`; or one such text as a parameter.
        answer: replaces missing keywords: its distinct words, in order, are the keywords.
        inflect: also accept a keyword with -s, -es, -d, -ed or -ing.
        columns: ignored.

    Raises:
        UserError: there is neither `keywords` nor `answer`.
    """
    return _score_words(
        completions, keywords, answer, "keyword_order", lambda text, listed: _ordered_share(text, listed, inflect)
    )


_Score = Callable[[list[str], list[list[str]]], float]  # words of the text, and of each keyword


def _score_words(
    completions: Sequence[Any], keywords: Any, answer: Any, name: str, score: _Score
) -> list[float | None]:
    if keywords is None and answer is None:
        raise UserError(
            f"reward '{name}': expected a column 'keywords' or 'answer', got neither; use {name}?keywords=first|second"
        )
    count = len(completions)
    rows = zip(completions, per_sample(keywords, count), per_sample(answer, count), strict=True)
    values: list[float | None] = []
    for completion, listed, reference in rows:
        if listed is None and reference is None:
            values.append(None)
        else:
            values.append(score(words(text_of(completion)), _keyword_words(listed, reference)))
    return values


def _keyword_words(listed: Any, reference: Any) -> list[list[str]]:
    """Return the words of each keyword: those of the list, or without a list each distinct word of the reference."""
    if listed is None:
        # dict.fromkeys removes duplicates and keeps the order
        return [[word] for word in dict.fromkeys(words(str(reference)))]
    split_items = [words(item) for item in items_of(listed)]
    return [item for item in split_items if item]


def _used_share(text: list[str], keywords: list[list[str]], inflect: bool) -> float:
    return sum(bool(_places(text, keyword, inflect)) for keyword in keywords) / len(keywords) if keywords else 1.0


def _ordered_share(text: list[str], keywords: list[list[str]], inflect: bool) -> float:
    """Return the share of keywords in the longest increasing subsequence of their places."""
    ends = [-1]  # ends[k]: the smallest place at which a sequence of k keywords can end
    for keyword in keywords:
        places = _places(text, keyword, inflect)
        # From long to short, so that one keyword extends each sequence at most once.
        for k in range(len(ends) - 1, -1, -1):
            later = next((p for p in places if p > ends[k]), None)
            if later is None:
                continue
            if k + 1 == len(ends):
                ends.append(later)
            else:
                ends[k + 1] = min(ends[k + 1], later)
    return (len(ends) - 1) / len(keywords) if keywords else 1.0


def _places(text: Sequence[str], keyword: Sequence[str], inflect: bool) -> list[int]:
    """Return the positions in a text at which a keyword ends."""
    n = len(keyword)
    if n > 1:
        return [i + n - 1 for i in range(len(text) - n + 1) if list(text[i : i + n]) == list(keyword)]
    forms = {keyword[0], *(keyword[0] + suffix for suffix in _SUFFIXES if inflect)}
    return [i for i, word in enumerate(text) if word in forms]

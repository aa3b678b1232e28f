"""Rewards for using the words that were asked for, and in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.columns import items_of, per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

_INFLECTED = ("s", "es", "d", "ed", "ing")


@reward("coverage", timeout_s=None, range=(0.0, 1.0))
def coverage(
    completions: Sequence[Any], keywords: Any = None, answer: Any = None, *, inflect: bool = False, **columns: Any
) -> list[float | None]:
    """Share of the wanted words that the completion uses; 1 where none is wanted.

    The wanted words are the column `keywords` (lists, or texts split at `|`), without it the words of `answer`; either
    may be a parameter, as in `coverage?keywords=dog|run`. A keyword of several words must stand as a whole. `inflect`
    also takes a keyword with -s, -es, -d, -ed or -ing. None without both. Range: [0, 1]. Cost: about 90,000 texts a
    second on one core. Deterministic. Hacked by: the bare list of the words; pair it with `fluency` or a length.
    Raises UserError when there is neither `keywords` nor `answer`.
    """
    return _over_words(completions, keywords, answer, "coverage", lambda found: _share(found, inflect))


@reward("keyword_order", timeout_s=None, range=(0.0, 1.0))
def keyword_order(
    completions: Sequence[Any], keywords: Any = None, answer: Any = None, *, inflect: bool = False, **columns: Any
) -> list[float | None]:
    """Share of the wanted words that stand in the wanted order: the longest run of them found so, of all of them.

    The wanted words and `inflect` are as in `coverage`; the order is that of the list. None without both. Range:
    [0, 1], at most `coverage`. Cost: about 80,000 texts a second on one core. Deterministic.
    Hacked by: the bare list of the words.
    Raises UserError when there is neither `keywords` nor `answer`.
    """
    return _over_words(completions, keywords, answer, "keyword_order", lambda found: _in_order(found, inflect))


_Found = tuple[list[str], list[list[str]]]  # words of the text, and of each keyword


def _over_words(
    completions: Sequence[Any], keywords: Any, answer: Any, name: str, score: Callable[[_Found], float]
) -> list[float | None]:
    if keywords is None and answer is None:
        raise UserError(f"reward '{name}' needs a column 'keywords' or 'answer', or {name}?keywords=first|second")
    n = len(completions)
    rows = zip(completions, per_sample(keywords, n), per_sample(answer, n), strict=True)
    values: list[float | None] = []
    for said, given, reference in rows:
        wanted = [] if given is None else [w for item in items_of(given) if (w := words(item))]
        if given is None and reference is not None:
            wanted = [[word] for word in dict.fromkeys(words(str(reference)))]
        nothing = given is None and reference is None
        values.append(None if nothing else score((words(text_of(said)), wanted)))
    return values


def _share(found: _Found, inflect: bool) -> float:
    text, wanted = found
    return sum(bool(_places(text, keyword, inflect)) for keyword in wanted) / len(wanted) if wanted else 1.0


def _in_order(found: _Found, inflect: bool) -> float:
    """The longest increasing subsequence of places, keywords in their order, by the smallest place a run can end at."""
    text, wanted = found
    ends = [-1]  # ends[k]: where the run of k keywords that ends first ends
    for keyword in wanted:
        places = _places(text, keyword, inflect)
        for k in range(len(ends) - 1, -1, -1):
            later = next((p for p in places if p > ends[k]), None)
            if later is None:
                continue
            if k + 1 == len(ends):
                ends.append(later)
            else:
                ends[k + 1] = min(ends[k + 1], later)
    return (len(ends) - 1) / len(wanted) if wanted else 1.0


def _places(text: Sequence[str], keyword: Sequence[str], inflect: bool) -> list[int]:
    """Where a keyword stands in a text: the places of its last word."""
    n = len(keyword)
    if n > 1:
        return [i + n - 1 for i in range(len(text) - n + 1) if list(text[i : i + n]) == list(keyword)]
    forms = {keyword[0], *(keyword[0] + end for end in _INFLECTED if inflect)}
    return [i for i, word in enumerate(text) if word in forms]

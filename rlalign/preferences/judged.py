"""Completions of a prompt with the answers of people, and the preferences that follow from them.

An answer gives each completion a score, higher is better: a choice gives 1 and 0, a tie 0 and 0, a ranking minus the
rank, a rating its points. Two kinds of preferences follow:

- one per pair of completions, by majority (choices, rankings) or by the mean of the scores (ratings);
- one per answer and pair (`each_answer`).

Equal completions, ties and completions without an answer give no preference. They are counted.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlalign.preferences.pairs import Preference, Side

Pairing = Literal["best-random", "best-each", "all"]
PAIRINGS: tuple[Pairing, ...] = ("best-random", "best-each", "all")
"""Pairs of several completions with scores: the best one and a random worse one (as in Zephyr, Tunstall et al. 2023,
arXiv:2310.16944), the best one and each worse one, or all pairs with different scores (as in Ouyang et al. 2022,
arXiv:2203.02155)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person answered about the completions of a prompt.

    Attributes:
        annotator: name of the person; empty if it is unknown.
        scores: number of a completion -> score; completions without an answer are left out.
        bad: all completions were called bad.
    """

    annotator: str
    scores: Mapping[int, float]
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt, its completions and the answers.

    Attributes:
        prompt: text or messages.
        completions: texts, or messages for a conversation.
        answers: one per person.
        rated: the scores are points of a scale, so that their differences have a size.
        place: file and row, for messages.
        group: of near-duplicates of the prompt.
        split: such as train or test.
        extra: columns of each preference.
        facts: columns by completion, such as {"policy": ["a", "b"]}: they become chosen_policy and rejected_policy.
    """

    prompt: Side
    completions: Sequence[Side]
    answers: Sequence[Answer]
    rated: bool = False
    place: str = ""
    group: int | str | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def preferences_of(
    judged: Judged, left_out: Counter[str], *, pairing: Pairing = "all", each_answer: bool = False, seed: int = 0
) -> Iterator[Preference]:
    """Yield the preferences that follow from the answers about one prompt.

    Args:
        judged: prompt, completions and answers.
        left_out: counts the pairs without a preference, by reason; it is changed.
        pairing: one of `PAIRINGS`. Applied to the mean scores of ratings; choices and rankings use all pairs.
        each_answer: one preference per answer and pair, in place of one per pair.
        seed: of the random completions of `best-random`; with the place it determines them.
    """
    if each_answer:
        for answer in judged.answers:
            if answer.bad:
                left_out["both bad"] += 1
                continue
            for i, j, margin in _pairs(judged, dict(answer.scores), left_out, pairing, seed):
                size = margin if judged.rated else None  # one choice has no strength
                yield _preference(judged, i, j, size, {}, answer.annotator or None)
        return
    if not judged.answers:
        left_out["no answer"] += 1
        return
    if judged.rated:
        means = _means(judged)
        for i, j, margin in _pairs(judged, means, left_out, pairing, seed):
            yield _preference(judged, i, j, margin, {"votes": _number(judged, i, j)})
        return
    for i, j in itertools.combinations(range(len(judged.completions)), 2):
        yield from _majority(judged, i, j, left_out)


def _majority(judged: Judged, i: int, j: int, left_out: Counter[str]) -> Iterator[Preference]:
    """Yield the preference of the majority; the margin is the share for `chosen` minus the share for `rejected`.

    Ties and "both bad" are in the denominator of the shares.
    """
    if judged.completions[i] == judged.completions[j]:
        left_out["equal completions"] += 1
        return
    answers = [a for a in judged.answers if a.bad or (i in a.scores and j in a.scores)]
    if not answers:
        left_out["no answer"] += 1
        return
    first = sum(not a.bad and a.scores[i] > a.scores[j] for a in answers)
    second = sum(not a.bad and a.scores[i] < a.scores[j] for a in answers)
    if first == second:
        bad = sum(a.bad for a in answers)
        left_out["both bad" if 2 * bad > len(answers) else "tie"] += 1
        return
    margin = abs(first - second) / len(answers)
    chosen, rejected = (i, j) if first > second else (j, i)
    yield _preference(judged, chosen, rejected, margin, {"votes": len(answers)})


def _pairs(
    judged: Judged, scores: Mapping[int, float], left_out: Counter[str], pairing: Pairing, seed: int
) -> Iterator[tuple[int, int, float]]:
    """Yield the better and the worse completion of each pair, and the difference of their scores."""
    found = False
    for i, j in scored_pairs(scores, pairing if judged.rated else "all", f"{seed}:{judged.place}"):
        if judged.completions[i] == judged.completions[j]:
            left_out["equal completions"] += 1
            continue
        found = True
        yield i, j, scores[i] - scores[j]
    if not found:
        left_out["tie" if len(scores) > 1 else "one completion"] += 1


def scored_pairs(scores: Mapping[int, float], pairing: Pairing, seed: str = "") -> list[tuple[int, int]]:
    """Return pairs (better, worse) of completions with scores.

    The best one is the first of those with the highest score.

    Args:
        scores: number of a completion -> score.
        pairing: one of `PAIRINGS`.
        seed: of the random choice.

    Example:
        >>> scored_pairs({0: 5.0, 1: 8.0, 2: 5.0}, "best-each"), scored_pairs({0: 5.0, 1: 8.0, 2: 5.0}, "all")
        ([(1, 0), (1, 2)], [(1, 0), (1, 2)])
    """
    ranked = sorted(scores, key=lambda i: (-scores[i], i))
    if pairing == "all":
        return [(i, j) for i, j in itertools.combinations(ranked, 2) if scores[i] > scores[j]]
    worse = [j for j in ranked if scores[j] < scores[ranked[0]]]
    if pairing == "best-random" and worse:
        worse = [random.Random(seed).choice(worse)]
    return [(ranked[0], j) for j in worse]


def _means(judged: Judged) -> dict[int, float]:
    """Return the mean score of each completion over the people who rated it."""
    by_completion: dict[int, list[float]] = {}
    for answer in judged.answers:
        for i, score in answer.scores.items():
            by_completion.setdefault(i, []).append(score)
    return {i: sum(scores) / len(scores) for i, scores in sorted(by_completion.items())}


def _number(judged: Judged, i: int, j: int) -> int:
    return sum((i in answer.scores) + (j in answer.scores) for answer in judged.answers)


def _preference(
    judged: Judged, i: int, j: int, margin: float | None, more: Mapping[str, Any], annotator: str | None = None
) -> Preference:
    prompt, chosen, rejected = judged.prompt, judged.completions[i], judged.completions[j]
    if isinstance(prompt, list):
        chosen, rejected = (
            [{"role": "assistant", "content": side}] if isinstance(side, str) else side for side in (chosen, rejected)
        )
    facts = {
        f"{side}_{name}": values[k]
        for name, values in judged.facts.items()
        for side, k in (("chosen", i), ("rejected", j))
    }
    return Preference(
        chosen, rejected, prompt, margin, annotator, judged.group, judged.split, {**facts, **more, **judged.extra},
        place=judged.place,
    )  # fmt: skip

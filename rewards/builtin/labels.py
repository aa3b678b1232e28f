"""Rewards for classification: a completion is exactly one of the labels, or it is invalid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.rewards.columns import items_of, per_sample, texts_of
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

INVALID = "(invalid)"


def parse_label(text: str, labels: Sequence[str]) -> str:
    """Return the label that a text equals, ignoring case and surrounding whitespace; else `INVALID`.

    >>> parse_label(" Positive\\n", ["positive", "negative"]), parse_label("positive!", ["positive"])
    ('positive', '(invalid)')
    """
    return {label.strip().casefold(): label for label in labels}.get(text.strip().casefold(), INVALID)


@reward("label_match", timeout_s=None, range=(-1.0, 1.0))
def label_match(
    completions: Sequence[Any],
    answer: Any,
    labels: Any = None,
    *,
    wrong: float = 0.0,
    invalid: float = 0.0,
    **columns: Any,
) -> list[float | None]:
    """Return 1 where the completion is the label `answer`, `wrong` for another one of `labels`, else `invalid`.

    Case and surrounding whitespace are ignored. Named as `label_match?labels=positive|negative&invalid=-1`.

    Range: 1, `wrong` and `invalid`, which should lie in [-1, 1]; None without an answer.
    Cost: about 400,000 texts per second on one core.
    Deterministic.
    Hacked by: the most frequent label for everything; check balanced accuracy or MCC too.

    Args:
        completions: B texts or conversations.
        answer: the right label, or a list of right ones.
        labels: column of lists, or a parameter split at `|`. Without it every text but the answer is invalid.
        wrong: value of another label.
        invalid: value of a text that is not a label.
        columns: ignored.
    """
    count = len(completions)
    rows = zip(completions, per_sample(answer, count), _label_rows(labels, count), strict=True)
    values: list[float | None] = []
    for completion, entry, others in rows:
        right = texts_of(entry)
        values.append(_label_value(text_of(completion), right, others, wrong, invalid) if right else None)
    return values


def _label_value(text: str, right: Sequence[str], others: Sequence[str], wrong: float, invalid: float) -> float:
    predicted = parse_label(text, [*right, *others])
    if predicted == INVALID:
        return invalid
    return 1.0 if predicted.casefold() in [label.strip().casefold() for label in right] else wrong


@reward("label_valid", timeout_s=None, range=(0.0, 1.0))
def label_valid(completions: Sequence[Any], labels: Any, **columns: Any) -> list[float]:
    """Return 1 where the completion is one of `labels`, else 0; `labels` as in `label_match`.

    Range: {0, 1}.
    Cost: about 400,000 texts per second on one core.
    Deterministic.
    Hacked by: any label, always.

    Args:
        completions: B texts or conversations.
        labels: column of lists, or a parameter split at `|`.
        columns: ignored.
    """
    rows = zip(completions, _label_rows(labels, len(completions)), strict=True)
    return [float(parse_label(text_of(completion), names) != INVALID) for completion, names in rows]


def _label_rows(labels: Any, count: int) -> list[list[str]]:
    return [[] if entry is None else items_of(entry) for entry in per_sample(labels, count)]

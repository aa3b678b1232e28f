"""Rewards for classification: a completion is one of the labels and nothing else, or it is invalid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.rewards.columns import items_of, per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

INVALID = "(invalid)"


def parse_label(text: str, labels: Sequence[str]) -> str:
    """The label that a text is, case and the blanks around it left out; else `INVALID`.

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
    """1 where the completion is the label `answer`, `wrong` where it is another one of `labels`, else `invalid`.

    Case and the blanks around it are left out, nothing else. `labels` is a column of lists, or a parameter:
    `label_match?labels=positive|negative&invalid=-1`; without it every other text is invalid. None without an answer.
    Range: 1, `wrong` and `invalid`, which should lie in [-1, 1]. Cost: about 400,000 texts a second on one core.
    Deterministic. Hacked by: the most frequent label for everything; look at balanced accuracy or MCC too.
    """
    n = len(completions)
    rows = zip(completions, per_sample(answer, n), _label_rows(labels, n), strict=True)
    return [None if a is None else _worth(text_of(c), str(a), known, wrong, invalid) for c, a, known in rows]


def _worth(said: str, wanted: str, labels: Sequence[str], wrong: float, invalid: float) -> float:
    found = parse_label(said, [wanted, *labels])
    return invalid if found == INVALID else 1.0 if found.casefold() == wanted.strip().casefold() else wrong


@reward("label_valid", timeout_s=None, range=(0.0, 1.0))
def label_valid(completions: Sequence[Any], labels: Any, **columns: Any) -> list[float]:
    """1 where the completion is one of `labels`, else 0; `labels` as in `label_match`.

    Range: {0, 1}. Cost: about 400,000 texts a second on one core. Deterministic. Hacked by: any label, always.
    """
    rows = zip(completions, _label_rows(labels, len(completions)), strict=True)
    return [float(parse_label(text_of(c), known) != INVALID) for c, known in rows]


def _label_rows(labels: Any, count: int) -> list[list[str]]:
    return [[] if entry is None else items_of(entry) for entry in per_sample(labels, count)]

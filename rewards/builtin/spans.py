"""Rewards for finding labelled spans: entities, events, phrases.

A list of spans is written one to a line, `text | label` (a tab may stand for the bar):

    Marie Curie | person
    Warsaw | place

Blanks around text and label and empty lines mean nothing; the label is what follows the last bar and is case-folded. A
line without a bar, or with nothing on one side of it, is a span that is wrong. The `answer` is such a text or a list of
(text, label) pairs. `none` alone on a line says that there is no span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.rewards.builtin.structured import f1
from rlalign.rewards.columns import per_sample
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of, words

Span = tuple[str, str]  # text, label; an empty label marks a line that is none


def parse_spans(text: str) -> list[Span]:
    """The spans of a text.

    >>> parse_spans("Marie Curie | Person\\nnonsense")
    [('Marie Curie', 'person'), ('nonsense', '')]
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [] if [line.casefold() for line in lines] == ["none"] else [_span(line) for line in lines]


def _span(line: str) -> Span:
    said, bar, label = line.replace("\t", "|").rpartition("|")
    said, label = said.strip(), label.strip().casefold()
    return (said, label) if bar and said and label else (line, "")


def write_spans(spans: Sequence[Span]) -> str:
    """The text of spans, the inverse of `parse_spans`."""
    return "\n".join(f"{text} | {label}" for text, label in spans) or "none"


def spans_of(answer: Any) -> list[Span]:
    """The spans of an answer: a text in the format above, or (text, label) pairs. Raises UserError for the rest."""
    if isinstance(answer, str):
        found = parse_spans(answer)
        if not all(label for _, label in found):
            raise UserError(f"an answer of spans has lines of 'text | label', not {answer!r:.80}")
        return found
    pairs = answer if isinstance(answer, list | tuple) else [answer]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(f"an answer of spans is lines of 'text | label' or (text, label) pairs, not {answer!r:.80}")
    return [(str(text).strip(), str(label).strip().casefold()) for text, label in pairs]


@reward("span_f1", timeout_s=None, range=(0.0, 1.0))
def span_f1(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """F1 of the spans of the completion against those of `answer`, one `text | label` to a line; both must be equal.

    A line that is no span counts against precision; nothing to find and nothing said is 1 (see
    `rlalign.rewards.builtin.spans`). None without an answer. Range: [0, 1].
    Cost: about 100,000 texts a second on one core. Deterministic. Hacked by: listing only what is certain; the most frequent label for everything.
    """
    pairs = zip(completions, per_sample(answer, len(completions)), strict=True)
    return [None if a is None else f1(Counter(parse_spans(text_of(c))), Counter(spans_of(a))) for c, a in pairs]


@reward("span_iou", timeout_s=None, range=(0.0, 1.0))
def span_iou(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """Mean intersection over union of the completion's spans with those of `answer` that they match best.

    Spans of equal label are matched one to one so that the sum of their IoU is largest; what stays alone counts 0:
    sum / max(number said, number wanted). The IoU is of the spans' words (ideographs in Chinese), as positions are no
    part of the format. Two empty lists score 1; None without an answer. Range: [0, 1]. Cost: about 40,000 texts a
    second on one core. Deterministic. Hacked by: long spans where the right words are uncertain.
    """
    pairs = zip(completions, per_sample(answer, len(completions)), strict=True)
    return [None if a is None else mean_iou(parse_spans(text_of(c)), spans_of(a)) for c, a in pairs]


_MOST = 200  # spans matched; a runaway list must not stall a run


def mean_iou(said: Sequence[Span], wanted: Sequence[Span]) -> float:
    """Σ IoU of the best one-to-one match / max(|said|, |wanted|); 1 where both are empty."""
    from scipy.optimize import linear_sum_assignment

    longer = max(len(said), len(wanted))
    if not said or not wanted:
        return float(not longer)
    overlaps = np.array([[_iou(a, b) for b in wanted[:_MOST]] for a in said[:_MOST]])
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return float(overlaps[rows, columns].sum()) / longer


def _iou(a: Span, b: Span) -> float:
    if a[1] != b[1]:
        return 0.0
    left, right = Counter(words(a[0])), Counter(words(b[0]))
    union = (left | right).total()
    return (left & right).total() / union if union else float(a[0] == b[0])

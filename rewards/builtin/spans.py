"""Rewards for labeled spans: entities, events, phrases.

A list of spans has one span per line, `text | label` (a tab may replace the bar):

    Marie Curie | person
    Warsaw | place

Whitespace around text and label and empty lines are ignored. The label follows the last bar and is case-folded. A line
without a bar, or with an empty text or label, is a wrong span. The `answer` is such a text or a list of (text, label)
pairs. A single line `none` means that there are no spans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.errors import UserError
from rlalign.rewards.builtin.structured import f1
from rlalign.rewards.columns import per_sample, score_answers
from rlalign.rewards.function import reward
from rlalign.rewards.text import words

Span = tuple[str, str]  # text, label; an empty label marks a line that is not a span


def parse_spans(text: str) -> list[Span]:
    """Return the spans of a text.

    >>> parse_spans("Marie Curie | Person\\nnonsense")
    [('Marie Curie', 'person'), ('nonsense', '')]
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [] if [line.casefold() for line in lines] == ["none"] else [_parse_line(line) for line in lines]


def _parse_line(line: str) -> Span:
    text, bar, label = line.replace("\t", "|").rpartition("|")
    text = text.strip()
    label = label.strip().casefold()
    return (text, label) if bar and text and label else (line, "")


def write_spans(spans: Sequence[Span]) -> str:
    """Return the text of spans, the inverse of `parse_spans`."""
    return "\n".join(f"{text} | {label}" for text, label in spans) or "none"


def spans_of(answer: Any) -> list[Span]:
    """Return the spans of an answer: a text in the format above, or (text, label) pairs.

    Raises:
        UserError: the answer has another form.
    """
    if isinstance(answer, str):
        spans = parse_spans(answer)
        if not all(label for _, label in spans):
            raise UserError(f"answer of spans: expected lines of 'text | label', got {answer!r:.80}; use one per line")
        return spans
    pairs = answer if isinstance(answer, list | tuple) else [answer]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(
            f"answer of spans: expected lines of 'text | label' or (text, label) pairs, got {answer!r:.80}; "
            "use [('Warsaw', 'place')]"
        )
    return [(str(text).strip(), str(label).strip().casefold()) for text, label in pairs]


@reward("span_f1", timeout_s=None, range=(0.0, 1.0))
def span_f1(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """Return the F1 of the spans of the completion against those of `answer`, one `text | label` per line.

    Text and label must both be equal. A line that is not a span lowers the precision. Two empty lists score 1. For the
    format see `rlalign.rewards.builtin.spans`.

    Range: [0, 1]; None without an answer.
    Cost: about 100,000 texts per second on one core.
    Deterministic.
    Hacked by: listing only what is certain; the most frequent label for everything.

    Args:
        completions: B texts or conversations.
        answer: column of texts in the same format, or of lists of (text, label) pairs; or one text as a parameter.
        columns: ignored.

    Raises:
        UserError: the answer has another form.
    """
    return score_answers(
        completions,
        per_sample(answer, len(completions)),
        lambda text, reference: f1(Counter(parse_spans(text)), Counter(spans_of(reference))),
    )


@reward("span_iou", timeout_s=None, range=(0.0, 1.0))
def span_iou(completions: Sequence[Any], answer: Any, **columns: Any) -> list[float | None]:
    """Return the mean intersection over union of the completion's spans with the best matching spans of `answer`.

    Spans of equal label are matched one to one so that the sum of their IoU is largest. Unmatched spans count 0:
    sum / max(number of predicted spans, number of reference spans). The IoU is over the spans' words (ideographs in
    Chinese), because the format has no positions. Two empty lists score 1.

    Range: [0, 1]; None without an answer.
    Cost: about 40,000 texts per second on one core.
    Deterministic.
    Hacked by: long spans where the right words are uncertain.

    Args:
        completions: B texts or conversations.
        answer: column of texts in the same format, or of lists of (text, label) pairs; or one text as a parameter.
        columns: ignored.

    Raises:
        UserError: the answer has another form.
    """
    return score_answers(
        completions,
        per_sample(answer, len(completions)),
        lambda text, reference: mean_iou(parse_spans(text), spans_of(reference)),
    )


_MAX_SPANS = 200  # spans matched: the matching is cubic, and a runaway list must not stall a run


def mean_iou(predicted: Sequence[Span], reference: Sequence[Span]) -> float:
    """Return Σ IoU of the best one-to-one match / max(|predicted|, |reference|); 1 if both are empty."""
    from scipy.optimize import linear_sum_assignment

    longer = max(len(predicted), len(reference))
    if not predicted or not reference:
        return float(not longer)
    overlaps = np.array([[_iou(a, b) for b in reference[:_MAX_SPANS]] for a in predicted[:_MAX_SPANS]])
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return float(overlaps[rows, columns].sum()) / longer


def _iou(a: Span, b: Span) -> float:
    if a[1] != b[1]:
        return 0.0
    left = Counter(words(a[0]))
    right = Counter(words(b[0]))
    union = (left | right).total()
    # Spans without words, such as punctuation, must be equal.
    return (left & right).total() / union if union else float(a[0] == b[0])

"""The verdict of a judge's answer, and the verdict of the two orders of a pair."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rlalign.feedback.judges.client import Reply

Answer = Literal["a", "b", "tie", "unparsed", "refused"]
"""The answer to one order: A or B is better, a tie, no verdict on the last line, or a refusal to judge."""

_CHOICES: dict[str, Answer] = {"A": "a", "B": "b", "C": "tie"}
# the last line alone counts: an explanation may quote a completion that contains a verdict
_LAST_LINE = re.compile(r"[\s*_`>]*(?:[A-Za-z ]{0,30}:)?[\s*_`]*\[\[([ABC])\]\][\s*_`.]*")
_REFUSAL = re.compile(
    r"\b(i['’]?m sorry|i am sorry|i apologi[sz]e"
    r"|(cannot|can['’]t|['’]m unable to|am unable to|am not able to|won['’]t|will not) "
    r"(assist|help|judge|compare|evaluate|answer|fulfill|comply|provide|engage|choose|decide))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a judge on a pair.

    Attributes:
        choice: "a" (the first stored completion is better), "b", "tie"; None if an order has no verdict.
        flipped: both orders have a verdict, and they differ: the judge contradicts itself, and the choice is a tie.
        reversed: the winner of one order loses in the other one; part of `flipped`.
    """

    choice: Literal["a", "b", "tie"] | None
    flipped: bool = False
    reversed: bool = False


def parse(text: str) -> Answer | None:
    """Return the verdict on the last line of a text that is not blank; None if the line is not one verdict.

    A short label and Markdown's emphasis may surround it.

    Example:
        >>> parse("B is more precise.\\n\\n**Verdict: [[B]]**")
        'b'
        >>> parse("[[A]] or [[B]]") is None
        True
    """
    lines = [line for line in text.splitlines() if line.strip()]
    match = _LAST_LINE.fullmatch(lines[-1]) if lines else None
    return _CHOICES[match[1]] if match else None


def classify(reply: Reply) -> Answer:
    """Return the answer of a reply.

    A reply is a refusal if the endpoint marks it as one, or if it has no verdict and the usual words of a refusal.
    A reply that the token limit cut has no last line, and is not parsed.
    """
    if reply.refused:
        return "refused"
    answer = None if reply.cut else parse(reply.text)
    if answer is not None:
        return answer
    return "refused" if _REFUSAL.search(reply.text) else "unparsed"


def combine(forward: str, backward: str) -> Verdict:
    """Return the verdict of both orders of a pair.

    A completion wins if it wins in both orders (Zheng et al. 2023, arXiv 2306.05685, section 3.4).

    Args:
        forward: answer with the first stored completion as A.
        backward: answer with the first stored completion as B, as it was given.
    """
    mirrored = {"a": "b", "b": "a", "tie": "tie"}
    if forward not in mirrored or backward not in mirrored:
        return Verdict(None)
    turned = mirrored[backward]
    if forward == turned:
        return Verdict(forward)  # type: ignore[arg-type]  # a, b or tie
    return Verdict("tie", flipped=True, reversed="tie" not in (forward, turned))

"""The kinds of recorded data, and which one a file holds, by its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rlalign.errors import UserError

Kind = Literal["demonstrations", "rewards", "labels", "pairs"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONVERSATIONS = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class KindOfData:
    """A kind of recorded data.

    Attributes:
        columns: what its rows need, for messages.
        algorithms: what learns from it, for messages.
    """

    columns: str
    algorithms: str


DESCRIPTIONS: Mapping[Kind, KindOfData] = {
    "demonstrations": KindOfData("messages, or prompt and completion", "sft"),
    "rewards": KindOfData("prompt, completion and reward", "reinforce, rloo, grpo and other policy gradients"),
    "labels": KindOfData("prompt, completion and label", "kto"),
    "pairs": KindOfData("prompt, chosen and rejected", "dpo, ipo, simpo"),
}


def kind_of(columns: Sequence[str]) -> Kind | None:
    """Return the kind of data that columns hold; None if they are no known kind, such as those of votes.

    Example:
        >>> kind_of(["prompt", "completion", "reward"]), kind_of(["messages"]), kind_of(["a"])
        ('rewards', 'demonstrations', None)
    """
    names = set(columns)
    if {"chosen", "rejected"} <= names:
        return "pairs"
    if "completion" in names and "label" in names:
        return "labels"
    if "completion" in names and "reward" in names:
        return "rewards"
    if ("prompt" in names and "completion" in names) or names & set(CONVERSATIONS):
        return "demonstrations"
    return None


def readable_as(kind: Kind | None, wanted: Kind) -> bool:
    """Return whether an algorithm that learns from `wanted` can read data of a kind without being told.

    A pair is two labels, chosen and rejected. Data of no known kind may hold preferences in one of the formats of
    `rlalign.preferences`.
    """
    if kind == wanted:
        return True
    if wanted == "labels":
        return kind == "pairs" or kind is None
    return wanted == "pairs" and kind is None


def wrong_kind(source: str, kind: Kind | None, columns: Sequence[str], algorithm: str, wanted: Kind) -> UserError:
    """Return the error for data of another kind than an algorithm learns from."""
    listed = ", ".join(map(str, columns)) or "no column"
    if kind is None:
        return UserError(
            f"'{source}': expected the columns {DESCRIPTIONS[wanted].columns}, which {algorithm} learns from, got "
            f"{listed}; rename the columns"
        )
    hint = f"--as {wanted}" if wanted in ("demonstrations", "pairs", "labels") and kind == "pairs" else ""
    other = f"use --algorithm {DESCRIPTIONS[kind].algorithms.split(',')[0].split(' ')[0]}"
    if kind == "rewards":
        other = "use --algorithm rloo"
    fix = f"{other}, or {hint}" if hint and wanted == "demonstrations" else other
    if kind in ("rewards", "labels") and wanted == "demonstrations":
        fix += ", or --as demonstrations to imitate all completions"
    return UserError(
        f"'{source}': expected the columns {DESCRIPTIONS[wanted].columns}, which {algorithm} learns from, got "
        f"{listed}, which are {kind}; {fix}"
    )


def columns_of_rows(records: Sequence[Any]) -> list[str]:
    """Return the columns of rows, in the order in which they first occur: JSON lines may leave columns out."""
    return [str(name) for name in dict.fromkeys(name for row in records if isinstance(row, Mapping) for name in row)]


def conversation_column(record: Mapping[str, Any]) -> str:
    """Return the column of a row that holds a whole conversation; empty if it has none."""
    return next((name for name in CONVERSATIONS if record.get(name) is not None), "")

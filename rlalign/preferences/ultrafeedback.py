"""Prompts with several completions and their scores, as in UltraFeedback (Cui et al. 2023, arXiv:2310.01377).

Two shapes are read:

- `instruction` (or `prompt`), and `completions`: objects with `response` (or text, completion, content) and a score;
- `prompt` (or `instruction`), `completions` (or responses, generations): texts, and `scores` (or ratings): numbers.

The pairs are those of `judged.PAIRINGS`; the margin is the difference of the scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row
from rlalign.preferences.judged import Answer, Judged, Pairing, preferences_of
from rlalign.preferences.pairs import Preference, is_side

PROMPTS = ("instruction", "prompt", "question", "messages")
LISTS = ("completions", "responses", "generations")
TEXTS = ("response", "text", "completion", "content", "output")
SCORES = ("overall_score", "fine-grained_score", "score", "rating")
NUMBERS = ("scores", "ratings")


def detect(records: Sequence[Any]) -> str:
    """Return why records are prompts with scored completions; empty if they are not."""
    for record in records:
        name = _first(record, LISTS)
        if _first(record, PROMPTS) is None or name is None or not isinstance(record[name], list):
            return ""
        entries = record[name]
        numbers = _first(record, NUMBERS)
        scored = all(isinstance(entry, Mapping) and _first(entry, TEXTS) for entry in entries) and any(
            _first(entry, SCORES) for entry in entries
        )
        if not entries or not (scored or (numbers is not None and isinstance(record[numbers], list))):
            return ""
    return "each row has a prompt and a list of completions with scores"


def read(
    row: Row, left_out: Counter[str], *, pairing: Pairing = "best-random", seed: int = 0, score: str = "", **_: Any
) -> Iterator[Preference]:
    """Yield the preferences of a row.

    Args:
        row: a row of a file.
        left_out: counts the pairs without a preference; it is changed.
        pairing: one of `judged.PAIRINGS`.
        seed: of the random completions.
        score: key of the score in a completion; empty: the first of `SCORES` that exists.

    Raises:
        UserError: names the row, and the completion that is at fault.
    """
    record = row.record
    prompt_name, name = _first(record, PROMPTS), _first(record, LISTS)
    if prompt_name is None or name is None or not is_side(record[prompt_name]):
        raise UserError(f"{row.place}: expected a prompt and a list of completions, got {', '.join(map(str, record))}")
    numbers = _first(record, NUMBERS)
    completions: list[Any] = []
    scores: dict[int, float] = {}
    for number, entry in enumerate(record[name]):
        where = f"{row.place}, completion {number + 1}"
        if isinstance(entry, Mapping):
            text = next((entry[key] for key in TEXTS if key in entry), None)
            key = score or _first(entry, SCORES)
            value = entry.get(key) if key is not None else None
        else:
            text = entry
            values = record[numbers] if numbers is not None else []
            value = values[number] if number < len(values) else None
        if not is_side(text):
            raise UserError(f"{where}: expected a text, got {text!r:.60}; use one of the keys {', '.join(TEXTS)}")
        completions.append(text)
        if value is not None:
            scores[number] = _number(value, where)
    if len(scores) < len(completions):
        left_out["completion without a score"] += len(completions) - len(scores)
    models = [entry.get("model") if isinstance(entry, Mapping) else None for entry in record[name]]
    facts = {"policy": models} if any(models) else {}
    points = {"score": [scores.get(i) for i in range(len(completions))]}
    used = (prompt_name, name, numbers, "models")
    extra = {key: value for key, value in record.items() if key not in used}
    answers = [Answer("", scores)] if scores else []
    judged = Judged(
        record[prompt_name], completions, answers, rated=True, place=row.place, split=row.split or None,
        extra=extra, facts={**facts, **points},
    )  # fmt: skip
    for preference in preferences_of(judged, left_out, pairing=pairing, seed=seed):
        columns = {key: value for key, value in preference.extra.items() if key != "votes"}
        yield Preference(
            preference.chosen, preference.rejected, preference.prompt, preference.margin, split=preference.split,
            extra=columns, place=preference.place,
        )  # fmt: skip


def _first(record: Any, names: Sequence[str]) -> str | None:
    """Return the first of some names that a record has with a value."""
    if not isinstance(record, Mapping):
        return None
    return next((name for name in names if record.get(name) is not None), None)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UserError(f"{where}: expected a number as the score, got {value!r:.40}; use a number, or leave it out")
    return number

"""Exports of Argilla: `dataset.records.to_json`, `to_list` and `to_datasets` of Argilla 2, and data sets of Argilla 1.

Three shapes are read:

- nested (Argilla 2): `fields`, and `responses`: question -> list of `{"value", "user_id"}`;
- flat (Argilla 2, `flatten=True` and `to_datasets`): columns of the fields, `QUESTION.responses`,
  `QUESTION.responses.users` and `QUESTION.responses.status`;
- Argilla 1: columns of the fields, and a column per question: list of `{"user_id", "value", "status"}`.

The completions are the fields that a question is about:

- a ranking or a label whose values are names of fields, in any spelling: `response-1` is the field `response_1`;
- a rating whose name contains the name of a field, such as `response_1_rating`, or ends in its number (`rating_1`).

The prompt is the field `prompt`, `instruction`, `question`, `input` or `chat`, else the first other field. Responses
that are drafts or discarded, and suggestions of models, are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row
from rlalign.preferences.judged import Answer, Judged, Pairing, preferences_of
from rlalign.preferences.pairs import Preference, is_side

PROMPTS = ("prompt", "instruction", "question", "input", "chat", "messages", "conversation")
_TIES = {"tie", "draw", "equal", "same", "both", "bothgood"}
_BAD = {"bad", "bothbad", "neither", "none"}
_ANSWERED = (None, "submitted")
"""States of responses that count. `to_json` writes no state."""

Response = tuple[str, Any]
"""Name of a user and the value."""


def detect(records: Sequence[Any]) -> str:
    """Return why records are an export of Argilla; empty if they are not."""
    reasons = {_shape(record) for record in records}
    return reasons.pop() if len(reasons) == 1 else ""


def _shape(record: Any) -> str:
    if not isinstance(record, Mapping):
        return ""
    if isinstance(record.get("fields"), Mapping) and "responses" in record:
        return "each row has fields and responses"
    if any(str(name).endswith(".responses") for name in record):
        return "columns end in .responses"
    if any(_is_question(value) for value in record.values()):
        return "a column has responses with user_id and value"
    return ""


def _is_question(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, Mapping) and {"user_id", "value"} <= set(entry) for entry in value)
    )


def read(
    row: Row, left_out: Counter[str], *, pairing: Pairing = "all", each_answer: bool = False, seed: int = 0, **_: Any
) -> Iterator[Preference]:
    """Yield the preferences of a record.

    Args:
        row: a row of an export.
        left_out: counts what gives no preference, by reason; it is changed.
        pairing: pairs of rated completions, one of `judged.PAIRINGS`.
        each_answer: a preference per response, in place of one per pair of completions.
        seed: of the random completions.

    Raises:
        UserError: names the row, and the question whose values are no fields.
    """
    record = row.record
    fields, questions = _parts(record, left_out)
    texts = {name: value for name, value in fields.items() if is_side(value) and value}
    if not any(questions.values()):
        left_out["no answer"] += 1
        return
    prompt = next((name for name in PROMPTS if name in texts), None)
    others = [name for name in texts if name != prompt]
    completions, answers, rated = _answers(questions, others, row.place)
    if prompt is None:
        prompt = next((name for name in others if name not in completions), None)
    if prompt is None:
        raise UserError(
            f"{row.place}: expected a field with the prompt, got {', '.join(texts)}; use one of {', '.join(PROMPTS)}"
        )
    judged = Judged(
        texts[prompt], [texts[name] for name in completions], answers, rated=rated, place=row.place,
        split=row.split or None, extra=_metadata(record), facts={"field": completions},
    )  # fmt: skip
    yield from preferences_of(judged, left_out, pairing=pairing, each_answer=each_answer, seed=seed)


def _parts(record: Mapping[str, Any], left_out: Counter[str]) -> tuple[dict[str, Any], dict[str, list[Response]]]:
    """Return the fields of a record, and the responses to each question."""
    questions: dict[str, list[Response]] = {}
    if isinstance(record.get("fields"), Mapping):
        for name, entries in (record.get("responses") or {}).items():
            questions[name] = _responses(entries or [], left_out)
        return dict(record["fields"]), questions
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith(".responses"):
            users = record.get(f"{name}.users") or []
            states = record.get(f"{name}.status") or [None] * len(value or [])
            entries = [
                {"value": answer, "user_id": user, "status": state}
                for answer, user, state in zip(value or [], users, states, strict=False)
            ]
            questions[name.removesuffix(".responses")] = _responses(entries, left_out)
        elif _is_question(value):
            questions[name] = _responses(value, left_out)
        elif not re.search(r"\.(responses|suggestion)(\.\w+)?$|-suggestion(-metadata)?$", name):
            fields[name] = value
    for name in ("id", "_server_id", "external_id", "status", "metadata"):
        fields.pop(name, None)
    return fields, questions


def _responses(entries: Sequence[Any], left_out: Counter[str]) -> list[Response]:
    found = []
    for entry in entries:
        if entry.get("status") not in _ANSWERED or entry.get("value") is None:
            left_out["draft or discarded response"] += 1
        else:
            found.append((str(entry.get("user_id") or ""), entry["value"]))
    return found


def _answers(
    questions: Mapping[str, list[Response]], fields: Sequence[str], place: str
) -> tuple[list[str], list[Answer], bool]:
    """Return the fields of the completions, the answers about them, and whether these are points of a scale."""
    by_name = {_folded(name): name for name in fields}
    for name, responses in questions.items():
        ranks = [(user, _ranks(value)) for user, value in responses]
        if ranks and all(isinstance(value, Mapping) for _, value in ranks):
            return _of_rankings(name, [(user, value or {}) for user, value in ranks], by_name, place)
    ratings = {}
    for name, responses in questions.items():
        field = _rated_field(name, fields)
        if field is not None and responses and all(_is_number(value) for _, value in responses):
            ratings[field] = responses
    if ratings:
        return _of_ratings([name for name in fields if name in ratings], ratings)
    for responses in questions.values():
        values = {_folded(str(value)) for _, value in responses}
        if values and values <= set(by_name) | _TIES | _BAD and values & set(by_name):
            return _of_labels(responses, fields, by_name)
    listed = ", ".join(f"'{name}' with {responses[0][1]!r:.40}" for name, responses in questions.items() if responses)
    raise UserError(
        f"{place}: expected a ranking or a label of the fields {', '.join(fields)}, or ratings that name them, got "
        f"{listed}; rename the fields, or convert the export to chosen and rejected"
    )


def _ranks(value: Any) -> dict[str, int] | None:
    """Return folded value -> rank of a ranking: an ordered list (Argilla 2), or objects with ranks (Argilla 1)."""
    if isinstance(value, Mapping) and isinstance(value.get("value"), list) and isinstance(value.get("rank"), list):
        value = [{"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"], strict=True)]
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(entry, str) for entry in value):
        return {_folded(entry): rank for rank, entry in enumerate(value, 1)}
    if all(isinstance(entry, Mapping) and "value" in entry for entry in value):
        return {_folded(str(entry["value"])): int(entry.get("rank") or n) for n, entry in enumerate(value, 1)}
    return None


def _of_rankings(
    question: str, rankings: Sequence[tuple[str, Mapping[str, int]]], by_name: Mapping[str, str], place: str
) -> tuple[list[str], list[Answer], bool]:
    known = sorted({value for _, ranks in rankings for value in ranks})
    if foreign := [value for value in known if value not in by_name]:
        raise UserError(
            f"{place}: expected the values of the ranking '{question}' to be names of the fields "
            f"{', '.join(by_name.values())}, got '{foreign[0]}'; rename the fields, or the values of the question"
        )
    names = [name for folded, name in by_name.items() if folded in known]
    numbers = {_folded(name): i for i, name in enumerate(names)}
    answers = [Answer(user, {numbers[name]: -float(rank) for name, rank in ranks.items()}) for user, ranks in rankings]
    return names, answers, False


def _of_ratings(names: list[str], ratings: Mapping[str, list[Response]]) -> tuple[list[str], list[Answer], bool]:
    by_user: dict[str, dict[int, float]] = {}
    for i, name in enumerate(names):
        for user, value in ratings[name]:
            by_user.setdefault(user, {})[i] = float(value)
    return names, [Answer(user, scores) for user, scores in by_user.items()], True


def _of_labels(
    responses: Sequence[Response], fields: Sequence[str], by_name: Mapping[str, str]
) -> tuple[list[str], list[Answer], bool]:
    """Return the answers of a label: the name of the better field, a tie, or both bad."""
    chosen = {by_name[_folded(str(value))] for _, value in responses if _folded(str(value)) in by_name}
    stem = _folded(next(iter(chosen))).rstrip("0123456789ab")
    names = [name for name in fields if _folded(name).startswith(stem) or name in chosen] if stem else list(fields)
    answers = []
    for user, value in responses:
        folded = _folded(str(value))
        scores = {i: float(_folded(name) == folded) for i, name in enumerate(names)}
        answers.append(Answer(user, {} if folded in _BAD else scores, bad=folded in _BAD))
    return names, answers, False


def _rated_field(question: str, fields: Sequence[str]) -> str | None:
    """Return the field that a rating is about: its name is in that of the question, or both end in one number."""
    name = _folded(question)
    inside = [field for field in fields if _folded(field) in name]
    if inside:
        return max(inside, key=len)
    number = re.search(r"\d+$", name)
    ending = [field for field in fields if number and re.search(r"\d*$", _folded(field))[0] == number[0]]  # type: ignore[index]  # it always matches
    return ending[0] if len(ending) == 1 else None


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata")
    known = {"record": record["id"]} if record.get("id") is not None else {}
    return {**known, **(metadata if isinstance(metadata, Mapping) else {})}

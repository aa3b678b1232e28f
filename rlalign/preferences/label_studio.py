"""Exports of Label Studio in the format JSON: tasks with `data` and `annotations`, each with the `result` of a person.

| tag of the labeling configuration | type in a result | value |
|---|---|---|
| `Pairwise` | `pairwise` | `{"selected": "left"}` or right |
| `Choices` | `choices` | `{"choices": ["left"]}`: left, right, a tie, both bad, or the name of a completion |
| `Ranker` of a `List` | `ranker` | `{"ranker": [id, ...]}`, best first; in buckets: `rank`, `_` or the only one |
| `Rating` | `rating` | `{"rating": 4}`, `to_name` is the text that is rated |

An export does not say which key of `data` a tag shows. A key with the name of the tag is used, else the texts in `data`
that are not the prompt, in order. The prompt is `prompt`, `instruction`, `question`, `query`, `input`, `dialogue` or
`messages`. Annotations that were skipped (`was_cancelled`) and predictions of models are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row
from rlalign.preferences.judged import Answer, Judged, Pairing, preferences_of
from rlalign.preferences.pairs import Preference, Side, is_side

PROMPTS = ("prompt", "instruction", "question", "query", "input", "dialogue", "messages")
_COMPLETION = re.compile(
    r"(answer|response|completion|output|text|txt|reply|candidate|left|right|model)", re.IGNORECASE
)
_LEFT = {"left", "a", "1", "first", "leftisbetter", "aisbetter"}
_RIGHT = {"right", "b", "2", "second", "rightisbetter", "bisbetter"}
_TIES = {"tie", "draw", "equal", "same", "both", "bothgood"}
_BAD = {"bad", "bothbad", "neither", "none"}


def detect(records: Sequence[Any]) -> str:
    """Return why records are an export of Label Studio; empty if they are not."""
    for record in records:
        if not isinstance(record, Mapping) or not isinstance(record.get("data"), Mapping):
            return ""
        if not isinstance(record.get("annotations"), list):
            return ""
    return "each row has data and annotations"


def read(
    row: Row, left_out: Counter[str], *, pairing: Pairing = "all", each_answer: bool = False, seed: int = 0, **_: Any
) -> Iterator[Preference]:
    """Yield the preferences of a task.

    Args:
        row: a task of an export.
        left_out: counts what gives no preference, by reason; it is changed.
        pairing: pairs of rated completions, one of `judged.PAIRINGS`.
        each_answer: a preference per annotation, in place of one per pair of completions.
        seed: of the random completions.

    Raises:
        UserError: names the task, and the result that is no judgement of its texts.
    """
    data = row.record["data"]
    prompt_key = next((key for key in PROMPTS if is_side(data.get(key)) and data.get(key)), None)
    if prompt_key is None:
        raise UserError(
            f"{row.place}: expected a prompt in data, got the keys {', '.join(map(str, data)) or 'none'}; name it one "
            f"of {', '.join(PROMPTS)}"
        )
    names, texts = _completions(data, prompt_key)
    answers: list[Answer] = []
    rated = False
    for annotation in row.record["annotations"]:
        if annotation.get("was_cancelled") or not annotation.get("result"):
            left_out["skipped annotation"] += 1
            continue
        scores, bad, points = _scores(annotation["result"], names, row.place)
        rated = rated or points
        answers.append(Answer(_person(annotation), scores, bad))
    extra = {"task": row.record["id"]} if row.record.get("id") is not None else {}
    judged = Judged(
        data[prompt_key], texts, answers, rated=rated, place=row.place, split=row.split or None, extra=extra,
        facts={"field": names},
    )  # fmt: skip
    yield from preferences_of(judged, left_out, pairing=pairing, each_answer=each_answer, seed=seed)


def _completions(data: Mapping[str, Any], prompt_key: str) -> tuple[list[str], list[Side]]:
    """Return the names and the texts of the completions: the items of a list, or the texts beside the prompt."""
    for value in data.values():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) and "id" in item for item in value):
            return [str(item["id"]) for item in value], [_item_text(item) for item in value]
    texts = {str(key): value for key, value in data.items() if key != prompt_key and is_side(value) and value}
    likely = {key: value for key, value in texts.items() if _COMPLETION.search(key)}
    chosen = likely if len(likely) > 1 else texts
    return list(chosen), list(chosen.values())


def _item_text(item: Mapping[str, Any]) -> str:
    return next((item[key] for key in ("body", "text", "html", "title") if isinstance(item.get(key), str)), "")


def _scores(results: Sequence[Any], names: Sequence[str], place: str) -> tuple[dict[int, float], bool, bool]:
    """Return the scores of the completions in an annotation, whether all are bad, and whether they are points."""
    points: dict[int, float] = {}
    for result in results:
        kind, value = result.get("type"), result.get("value") or {}
        if kind == "pairwise":
            return _of_side(str(value.get("selected")), result, names, place)
        if kind == "ranker":
            order = [str(name) for name in _order(value.get("ranker"), place)]
            foreign = [name for name in order if name not in names]
            if foreign:
                raise UserError(f"{place}: expected ids of the list in the ranking, got '{foreign[0]}'")
            return {names.index(name): -float(rank) for rank, name in enumerate(order)}, False, False
        if kind == "rating":
            points[_number_of(result, names, place)] = float(value["rating"])
        if kind == "choices" and value.get("choices"):
            choice = _folded(str(value["choices"][0]))
            if choice in _LEFT | _RIGHT | _TIES | _BAD | {_folded(name) for name in names}:
                return _of_side(choice, result, names, place)
    if not points:
        kinds = ", ".join(sorted({str(result.get("type")) for result in results}))
        raise UserError(
            f"{place}: expected a result of the type pairwise, choices, ranker or rating that judges the completions "
            f"{', '.join(names)}, got {kinds}; leave the task out"
        )
    return points, False, True


def _of_side(
    choice: str, result: Mapping[str, Any], names: Sequence[str], place: str
) -> tuple[dict[int, float], bool, bool]:
    """Return the scores of a choice between two completions."""
    tags = str(result.get("to_name") or "").split(",")
    folded = [_folded(name) for name in names]
    # the tags of Pairwise are the left and the right one
    pair = [folded.index(_folded(tag)) for tag in tags if _folded(tag) in folded]
    if len(pair) != 2:
        pair = list(range(len(names)))
    if len(pair) != 2:
        raise UserError(
            f"{place}: expected two texts for a choice between two, got {', '.join(names) or 'none'}; name the tags "
            "after the keys of data"
        )
    choice = _folded(choice)
    if choice in _BAD:
        return {}, True, False
    first, second = pair
    if choice in _LEFT or choice == folded[first]:
        return {first: 1.0, second: 0.0}, False, False
    if choice in _RIGHT or choice == folded[second]:
        return {first: 0.0, second: 1.0}, False, False
    if choice in _TIES:
        return {first: 0.0, second: 0.0}, False, False
    raise UserError(f"{place}: expected left, right, a tie or the name of a text, got '{choice}'; leave the task out")


def _order(ranker: Any, place: str) -> list[Any]:
    """Return the order of a ranking: a list of ids, or that in the only bucket or in `rank`."""
    if isinstance(ranker, Mapping):
        filled = {name: ids for name, ids in ranker.items() if ids}
        name = next((name for name in ("rank", "_") if name in filled), None)
        if name is None and len(filled) == 1:
            name = next(iter(filled))
        ranker = filled.get(name) if name is not None else None
    if not isinstance(ranker, list):
        raise UserError(f"{place}: expected one ranked list of ids, got several buckets; rank the items in one list")
    return ranker


def _number_of(result: Mapping[str, Any], names: Sequence[str], place: str) -> int:
    """Return the number of the completion that a rating is about, by the tag that it refers to or by its own name."""
    for tag in (result.get("to_name"), result.get("from_name")):
        folded = _folded(str(tag or ""))
        for i, name in enumerate(names):
            if folded == _folded(name):
                return i
        number = re.search(r"\d+$", folded)
        ending = [i for i, name in enumerate(names) if number and _folded(name).endswith(number[0])]
        if len(ending) == 1:
            return ending[0]
    raise UserError(
        f"{place}: expected a rating of one of {', '.join(names)}, got one of '{result.get('to_name')}'; name the tags "
        "after the keys of data"
    )


def _person(annotation: Mapping[str, Any]) -> str:
    """Return the number of the person; exports with users have an object, whose address is not read."""
    person = annotation.get("completed_by")
    return str(person.get("id", "") if isinstance(person, Mapping) else person if person is not None else "")


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()

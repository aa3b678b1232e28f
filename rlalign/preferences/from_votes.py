"""Votes of a study as preferences.

| kind of study | preferences |
|---|---|
| pair | one per item, of the side with more votes |
| ranking | one per pair of completions of an item, of the side that more people ranked higher |
| rating | one per pair of completions of a prompt with different mean ratings |

The margin of a pair is the share of votes for `chosen` minus the share for `rejected`; ties and "both bad" are in the
denominator. That of ratings is the difference of the means. Items with equal numbers of votes and both-bad items give
no preference. Skips, gold items and repetitions are left out, as are withdrawn, undone and superseded votes, which are
no counted votes.

A file may hold the votes of several studies. An item is then known by its prompt and its completions beside its number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.files import Row
from rlalign.preferences.judged import Answer, Judged, Pairing, preferences_of
from rlalign.preferences.pairs import Preference, Side, is_side

Vote = Mapping[str, Any]
"""A row of `rlalign.feedback.progress.votes`."""
_COLUMNS = {"item", "prompt", "completions", "kind", "choice", "annotator"}


def detect(records: Sequence[Any]) -> str:
    """Return why records are exported votes; empty if they are not."""
    if all(isinstance(record, Mapping) and set(record) >= _COLUMNS for record in records):
        return "the columns of exported votes"
    return ""


def read(rows: Iterable[Row], left_out: Counter[str], **options: Any) -> Iterator[Preference]:
    """Yield the preferences of a file of exported votes (see `preferences_of_votes`).

    Raises:
        UserError: a row has other columns.
    """

    def votes() -> Iterator[Vote]:
        for row in rows:
            if problem := _problem(row.record):
                raise UserError(f"{row.place}: expected votes as `rlalign feedback export` writes them, got {problem}")
            yield row.record

    known = {name: options[name] for name in ("each_answer", "scale", "pairing", "seed") if name in options}
    yield from preferences_of_votes(votes(), left_out, **known)


def _problem(record: Any) -> str:
    """Return what keeps a row from being a vote; empty if nothing does."""
    if not isinstance(record, Mapping) or not set(record) >= _COLUMNS:
        return f"no columns {', '.join(sorted(_COLUMNS))}"
    kind, texts = record["kind"], record["completions"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not is_side(record["prompt"]):
        return "a prompt or completions that are no texts"
    for name in ("policies", "cut"):
        if record.get(name) is not None and (not isinstance(record[name], list) or len(record[name]) != len(texts)):
            return f"another number of values in '{name}' than completions"
    if record["choice"] == "skip":
        return ""
    if kind == "pair" and len(texts) == 2 and record["choice"] in ("a", "b", "tie", "bad"):
        return ""
    if kind == "rating" and len(texts) == 1 and _are_numbers(record.get("ratings")):
        return ""
    ranking = record.get("ranking") or {}
    if kind == "ranking" and _are_numbers(ranking) and sorted(ranking) == list("ABCD"[: len(texts)]):
        return ""
    return f"no answer of the kind {kind!r}"


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Mapping) and all(isinstance(value, int | float) for value in values.values())


def preferences_of_votes(
    votes: Iterable[Vote],
    left_out: Counter[str],
    *,
    each_answer: bool = False,
    scale: str = "",
    pairing: Pairing = "all",
    seed: int = 0,
) -> Iterator[Preference]:
    """Yield the preferences of the votes of a study.

    A prompt of messages stays messages, and its completions become messages of the assistant. If a study has both plain
    and conversational prompts, a plain one becomes a message of the user, since TRL's trainers take one form.

    Args:
        votes: rows of `rlalign.feedback.progress.votes`.
        left_out: counts votes and pairs without a preference, by reason; it is changed.
        each_answer: a preference per vote, with its annotator, in place of one per pair of completions.
        scale: the scale of ratings that is used; empty: the first one of the study.
        pairing: pairs of rated completions, one of `judged.PAIRINGS`.
        seed: of the random completions.

    Raises:
        UserError: a rating study has no such scale.
    """
    grouped: dict[str, list[Vote]] = {}
    for vote in votes:
        if vote.get("gold") in (True, "True"):  # a text in CSV
            left_out["gold vote"] += 1
        elif vote.get("repeat_of") is not None:
            left_out["repetition"] += 1
        elif vote["choice"] == "skip":
            left_out["skip"] += 1
        else:
            grouped.setdefault(_key(vote), []).append(vote)
    plain = [_plain_text(group[0]["prompt"]) is not None for group in grouped.values()]
    as_messages = not all(plain)
    for group in grouped.values():
        judged = _judged(group, scale, as_messages=as_messages)
        yield from preferences_of(judged, left_out, pairing=pairing, each_answer=each_answer, seed=seed)


def _key(vote: Vote) -> str:
    """Return what the votes of one question share.

    Several studies in one file have the same numbers of items, so the prompt and the completions belong to the key. The
    completions of a prompt are rated one by one: what their votes share is the prompt.
    """
    if vote["kind"] == "rating":
        return json.dumps(["rating", vote["prompt"]])
    texts = vote["completions"]
    policies = vote.get("policies") or [None] * len(texts)
    shown = sorted([str(policy), text] for policy, text in zip(policies, texts, strict=True))
    return json.dumps([vote["kind"], vote["prompt"], vote["item"], shown])


def _judged(votes: Sequence[Vote], scale: str, *, as_messages: bool) -> Judged:
    """Return the votes about one prompt, with the completions in the same order for all of them."""
    first = votes[0]
    numbers: dict[tuple[str, str], int] = {}
    known: dict[int, dict[str, Any]] = {}
    for vote in votes:
        policies = vote.get("policies") or [None] * len(vote["completions"])
        cuts = vote.get("cut") or [False] * len(vote["completions"])
        for text, policy, cut in zip(vote["completions"], policies, cuts, strict=True):
            number = numbers.setdefault((str(policy), text), len(numbers))
            known[number] = {"text": text, "policy": policy, "cut": bool(cut)}
    answers = [_answer(vote, numbers, scale) for vote in votes]
    facts = {name: [known[i][name] for i in range(len(known))] for name in ("policy", "cut")}
    rated = first["kind"] == "rating"
    extra = {"scale": scale or _first_scale(first)} if rated else {"item": first["item"]}
    return Judged(
        _prompt(first["prompt"], as_messages=as_messages), [known[i]["text"] for i in range(len(known))], answers,
        rated=rated, place=f"item {first['item']}", group=first.get("group"), split=first.get("split"), extra=extra,
        facts=facts,
    )  # fmt: skip


def _answer(vote: Vote, numbers: Mapping[tuple[str, str], int], scale: str) -> Answer:
    policies = vote.get("policies") or [None] * len(vote["completions"])
    shown = [numbers[str(policy), text] for policy, text in zip(policies, vote["completions"], strict=True)]
    person = str(vote["annotator"])
    if vote["kind"] == "rating":
        name = scale or _first_scale(vote)
        if name not in (vote["ratings"] or {}):
            raise UserError(
                f"vote {vote.get('vote', '')}: expected a rating on the scale '{name}', got "
                f"{', '.join(vote['ratings'] or {}) or 'none'}; use --scale with one of these"
            )
        return Answer(person, {shown[0]: float(vote["ratings"][name])})
    if vote["kind"] == "ranking":
        # labels are A, B, ... in the order on the screen
        return Answer(person, {shown["ABCD".index(label)]: -float(rank) for label, rank in vote["ranking"].items()})
    scores = {"a": (1.0, 0.0), "b": (0.0, 1.0)}.get(vote["choice"], (0.0, 0.0))
    return Answer(person, dict(zip(shown, scores, strict=True)), bad=vote["choice"] == "bad")


def _first_scale(vote: Vote) -> str:
    return next(iter(vote["ratings"] or {}), "")


def _plain_text(prompt: Side) -> str | None:
    """Return the text of a prompt that is no conversation: the store holds it as one message of the role "text"."""
    if isinstance(prompt, str):
        return prompt
    is_plain = len(prompt) == 1 and prompt[0]["role"] == "text"
    return str(prompt[0]["content"]) if is_plain else None


def _prompt(prompt: Side, *, as_messages: bool) -> Side:
    text = _plain_text(prompt)
    if text is None:
        return prompt
    return [{"role": "user", "content": text}] if as_messages else text

"""The verdicts of the judges of a store: one row per judge and pair, from the stored answers to both orders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from rlalign.feedback.judges.verdicts import combine
from rlalign.feedback.tables import annotator, completion, item, policy, prompt, vote
from rlalign.feedback.votes import stands

SOURCE = "judge"
"""Value of `vote.source` of a judge's answer; votes of people have "person"."""
PREFIX = "judge:"
"""Beginning of the pseudonym of a judge."""


def stored_answers() -> sa.Select[Any]:
    """Return the query of the answers of judges that stand, each to one order of a pair."""
    return sa.select(vote).where(vote.c.source == SOURCE, vote.c.withdrawn == 0, stands())


def judge_verdicts(connection: sa.Connection, judge: str | None = None) -> Iterator[dict[str, Any]]:
    """Return the verdicts of judges as rows with the keys of `rlalign.feedback.progress.votes`, in stored order.

    Pairs that were asked in one order so far are left out.

    Args:
        connection: a snapshot.
        judge: pseudonym of a judge; None: all.

    Yields:
        `completions` and `policies` are in the order of the item. `choice` is "a" (the first of them is better), "b",
        "tie", or "skip" if an answer has no verdict. `source` is "judge", `annotator` the judge's pseudonym. `answers`
        are the two answers as they were given, "a" being the completion that was shown first; the second answer is to
        the order that is turned round. `flipped` and `reversed` are those of `Verdict`.
    """
    answers = stored_answers().subquery()
    query = (
        sa.select(answers, annotator.c.pseudonym, item.c.completion_ids)
        .join(annotator, annotator.c.id == answers.c.annotator)
        .join(item, item.c.id == answers.c.item)
        .order_by(answers.c.id)
    )
    if judge is not None:
        query = query.where(annotator.c.pseudonym == judge)
    pairs: dict[tuple[str, int], dict[bool, Any]] = defaultdict(dict)
    for row in connection.execute(query):
        pairs[row.pseudonym, row.item][row.order_json == row.completion_ids] = row
    complete = {key: orders for key, orders in pairs.items() if len(orders) == 2}
    texts = sa.select(completion, policy.c.label).outerjoin(policy, policy.c.id == completion.c.policy_id)
    known = {c.id: c for c in connection.execute(texts)} if complete else {}
    prompts = {p.id: p for p in connection.execute(sa.select(prompt))} if complete else {}
    for (pseudonym, item_id), orders in complete.items():
        forward, backward = orders[True], orders[False]
        verdict = combine(forward.choice, backward.choice)
        shown = [known[i] for i in json.loads(forward.order_json)]
        asked = prompts[shown[0].prompt_id]
        yield {
            "item": item_id,
            "repeat_of": None,
            "gold": False,
            "prompt": json.loads(asked.messages_json),
            "group": asked.group_id,
            "split": asked.split,
            "language": asked.language,
            "completions": [c.text for c in shown],
            "policies": [c.label for c in shown],
            "cut": [c.finish == "length" for c in shown],
            "kind": "pair",
            "choice": verdict.choice or "skip",
            "ratings": None,
            "ranking": None,
            "annotator": pseudonym,
            "source": SOURCE,
            "answers": [forward.choice, backward.choice],
            "flipped": verdict.flipped,
            "reversed": verdict.reversed,
            "at": max(forward.at, backward.at),
            "active_ms": 0,
            "elapsed_ms": forward.elapsed_ms + backward.elapsed_ms,
            "template": forward.guidelines_hash,
        }

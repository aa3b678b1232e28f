"""A judge at work: the pairs that it has not judged, asked in both orders and stored answer by answer."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlalign.errors import UserError
from rlalign.feedback.judges.client import Client, RejectedError, shown_url, storable
from rlalign.feedback.judges.prompt import Template
from rlalign.feedback.judges.rows import PREFIX, SOURCE, judge_verdicts, stored_answers
from rlalign.feedback.judges.verdicts import classify
from rlalign.feedback.progress import counted_votes
from rlalign.feedback.store import Store, insert_returning_id, log_event, now_ms
from rlalign.feedback.tables import annotator, comment, completion, item, prompt, study, vote

_MOST_REJECTED = 3
"""Refused requests after which a run without one answer ends: the request itself is wrong."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a judge has stored, in this run and before.

    Attributes:
        judge: pseudonym of the judge.
        pairs: pairs that were asked in both orders.
        new: answers that this run stored.
        answers: stored answers of these pairs, two per pair.
        flipped: pairs whose orders have different verdicts; they are ties.
        reversed: flipped pairs whose winner changes with the order.
        judged: pairs with a verdict in both orders.
        unparsed: answers without a verdict on the last line.
        refused: refusals to judge.
        rejected: requests of this run that the endpoint refused; nothing of them is stored.
        rejection: the first such error.
        models: names under which the endpoint answered in this run.
    """

    judge: str
    pairs: int
    new: int
    answers: int
    flipped: int
    reversed: int
    judged: int
    unparsed: int
    refused: int
    rejected: int = 0
    rejection: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Question:
    """An order of a pair that is to be asked."""

    item: int
    order: str
    prompt: list[dict[str, str]]
    first: str
    second: str


def judge_name(model: str, template: Template) -> str:
    """Return the pseudonym of the judge of a model and a template."""
    return f"{PREFIX}{model}:{template.digest[:8]}"


def run_judge(
    store: Store,
    client: Client,
    template: Template,
    *,
    concurrency: int = 4,
    count: int | None = None,
    voted: bool = False,
    stopped: threading.Event | None = None,
) -> Summary:
    """Ask a judge for its verdict on the pairs of a study in both orders, and store each answer at once.

    Answers that are stored are not asked for again, so a run that ended early continues.

    Args:
        store: of a study of pairs.
        client: of the endpoint.
        template: of the requests.
        concurrency: requests at the same time.
        count: largest number of pairs; None: all. Pairs are taken in the stored random order, so that a part of them
            is a random sample.
        voted: leave out pairs that no person has judged.
        stopped: ends the run when it is set.

    Raises:
        UserError: the study has another kind, the judge was withdrawn, or the endpoint cannot be used.
        FaultError: an answer failed at all attempts.
    """
    described = store.study()
    if described.kind != "pair":
        raise UserError(
            f"expected a study of pairs, got kind '{described.kind}'; judges give verdicts on pairs, not ratings or "
            "rankings"
        )
    texts = store.read(lambda c: json.loads(c.execute(sa.select(study.c.texts_json)).scalar_one()))
    guidelines = texts["guidelines"][described.languages[0]]
    name = judge_name(client.endpoint.model, template)
    judge_id = store.write(lambda c: _register(c, name, client, template)).result()
    questions = store.read(lambda c: _open_questions(c, judge_id, count=count, voted=voted))
    work = _Work(questions, stopped or threading.Event())

    def ask(question: _Question) -> None:
        messages = template.messages(question.prompt, question.first, question.second, guidelines=guidelines)
        start = now_ms()
        try:
            reply = client.ask(messages)
        except RejectedError as error:
            work.reject(error)
            return
        values = {
            "item": question.item, "annotator": judge_id, "kind": "pair", "choice": classify(reply),
            "order_json": question.order, "elapsed_ms": now_ms() - start, "active_ms": 0, "seen": -1, "unfolded": 0,
            "guidelines_hash": template.digest, "source": SOURCE,
            "body_hash": hashlib.sha256(reply.text.encode()).hexdigest()[:32],
        }  # fmt: skip
        work.count(reply.model, stored=store.write(lambda c: _store(c, values, reply.text)).result())

    work.run(ask, concurrency)
    rows = store.read(lambda c: list(judge_verdicts(c, name)))
    answers = Counter(answer for row in rows for answer in row["answers"])
    summary = Summary(
        name, len(rows), work.new, 2 * len(rows), sum(row["flipped"] for row in rows),
        sum(row["reversed"] for row in rows), sum(row["choice"] != "skip" for row in rows), answers["unparsed"],
        answers["refused"], work.rejected, str(work.rejection or ""), tuple(sorted(work.models)),
    )  # fmt: skip
    detail = json.dumps({"new": summary.new, "pairs": summary.pairs, "answered_as": summary.models})
    store.write(lambda c: log_event(c, name, "judge", detail)).result()
    return summary


class _Work:
    """Questions that several threads take from one list, and what became of them."""

    def __init__(self, questions: list[_Question], stopped: threading.Event) -> None:
        self.questions = iter(questions)
        self.stopped = stopped
        self.lock = threading.Lock()
        self.new = 0
        self.answered = 0
        self.rejected = 0
        self.rejection: RejectedError | None = None
        self.models: set[str] = set()
        self.error: BaseException | None = None

    def count(self, model: str, *, stored: bool) -> None:
        """Count an answer."""
        with self.lock:
            self.answered += 1
            self.new += stored
            self.models.add(model)

    def reject(self, error: RejectedError) -> None:
        """Count a refused request; raise it if there are several and no answer."""
        with self.lock:
            self.rejected += 1
            self.rejection = self.rejection or error
            if self.answered == 0 and self.rejected >= _MOST_REJECTED:
                raise error

    def run(self, ask: Callable[[_Question], None], concurrency: int) -> None:
        """Ask all questions; raise the first error when the requests under way are done."""

        def work() -> None:
            while not self.stopped.is_set():
                with self.lock:
                    question = next(self.questions, None)
                if question is None:
                    return
                try:
                    ask(question)
                except BaseException as error:
                    self.error = self.error or error
                    self.stopped.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self.stopped.set()  # the answers that are stored stay; daemon threads end with the process
            raise
        if self.error is not None:
            raise self.error


def _register(connection: sa.Connection, name: str, client: Client, template: Template) -> int:
    """Return the id of the annotator of a judge; make it at the first run, and log the model and the template."""
    row = connection.execute(sa.select(annotator).where(annotator.c.pseudonym == name)).one_or_none()
    if row is not None:
        if row.withdrawn is not None:
            raise UserError(
                f"'{name}' was withdrawn, so its verdicts leave reports; use erase to delete them, or another template"
            )
        return int(row.id)
    detail = {
        "model": client.endpoint.model, "url": shown_url(client.endpoint.url), "max_tokens": client.endpoint.max_tokens,
        "temperature": 0, "template_digest": template.digest, "template": template.text,
    }  # fmt: skip
    log_event(connection, name, "judge", json.dumps(detail, ensure_ascii=False))
    return insert_returning_id(
        connection, annotator, pseudonym=name, scope="judge", created=now_ms(), seed=secrets.randbits(31)
    )


def _open_questions(connection: sa.Connection, judge_id: int, *, count: int | None, voted: bool) -> list[_Question]:
    """Return the orders of pairs that a judge has not answered; those of a pair follow each other."""
    answered = stored_answers().where(vote.c.annotator == judge_id).subquery()
    known = {(row.item, row.order_json) for row in connection.execute(sa.select(answered))}
    pairs = (
        sa.select(item.c.id, item.c.completion_ids, prompt.c.messages_json)
        .join(prompt, prompt.c.id == item.c.prompt_id)
        .where(item.c.kind == "pair", item.c.needed > 0)
        .order_by(item.c.place)
    )
    if voted:
        judged = counted_votes().where(vote.c.choice != "skip").subquery()
        pairs = pairs.where(item.c.id.in_(sa.select(judged.c.item)))
    texts = {row.id: row.text for row in connection.execute(sa.select(completion.c.id, completion.c.text))}
    questions: list[_Question] = []
    chosen = 0
    for row in connection.execute(pairs):
        ids = json.loads(row.completion_ids)
        orders = [order for order in (ids, ids[::-1]) if (row.id, json.dumps(order)) not in known]
        if not orders:
            continue
        if count is not None and chosen == count:
            break
        chosen += 1
        for a, b in orders:
            questions.append(_Question(row.id, json.dumps([a, b]), json.loads(row.messages_json), texts[a], texts[b]))
    return questions


def _store(connection: sa.Connection, values: dict[str, Any], text: str) -> bool:
    """Store an answer and its text; return False if another process has stored this order meanwhile."""
    # two processes of one judge wait for each other here on PostgreSQL
    mine = sa.select(annotator.c.id).where(annotator.c.id == values["annotator"]).with_for_update()
    connection.execute(mine).one()
    same = stored_answers().where(
        vote.c.annotator == values["annotator"], vote.c.item == values["item"],
        vote.c.order_json == values["order_json"],
    )  # fmt: skip
    if connection.execute(same).first() is not None:
        return False
    vote_id = insert_returning_id(connection, vote, **values, at=now_ms())
    if text.strip():
        connection.execute(sa.insert(comment).values(vote=vote_id, text=storable(text)))
    return True

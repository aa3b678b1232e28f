"""Simulated people, who judge through the JSON interface as real ones do.

A simulated person prefers the completion of higher utility. The utility of a text is a score times the person's taste
for it, plus biases for length and for the side on the screen. Choices follow Davidson's model of paired comparisons
with ties (Davidson 1970, JASA 65:317-328)::

    P(A better) = w_A / (w_A + w_B + ν √(w_A w_B))        w = exp(utility / temperature)

Three further kinds of noise follow: answers that are flipped, people who answer without reading, and own tastes, which
are weights of the words that differ between people.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import httpx
import sqlalchemy as sa

from rlalign.errors import FaultError
from rlalign.feedback.study import Example
from rlalign.feedback.tables import annotator, vote

_WORD = re.compile(r"\w+")
Score = Callable[[str], float]
Known = Mapping[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Taste:
    """How a simulated person judges.

    Attributes:
        score: weight of the score.
        length: weight of the length, per hundred characters.
        side: utility that is added to the left completion.
        temperature: noise; 0.01: hardly any.
        ties: ν of Davidson's model; 0: no tie.
        skips: share of skipped items.
        flips: share of items that are judged as if the worse completion were the better one.
        careless: share of items that are answered at random, without reading.
        own: standard deviation of the person's own weights of words. The utility adds the weight of each different
            word.
        words: seed of these weights.
    """

    score: float = 1.0
    length: float = 0.0
    side: float = 0.0
    temperature: float = 0.5
    ties: float = 0.3
    skips: float = 0.02
    flips: float = 0.0
    careless: float = 0.0
    own: float = 0.0
    words: int = 0


def draw_tastes(
    rng: random.Random, count: int, *, careless: int = 0, flips: float = 0.0, own: float = 0.0, **means: float
) -> list[Taste]:
    """Return the tastes of several people.

    Args:
        rng: random numbers.
        count: number of people.
        careless: number of people, the last ones, who answer all items at random.
        flips: share of flipped answers of each person.
        own: standard deviation of each person's own weights of words.
        means: further arguments of `draw_taste`.
    """
    tastes = [draw_taste(rng, **means) for _ in range(count)]
    # drawn last, so that the tastes do not depend on the further noise
    return [
        replace(taste, flips=flips, own=own, words=rng.getrandbits(32), careless=float(number >= count - careless))
        for number, taste in enumerate(tastes)
    ]


def draw_taste(rng: random.Random, *, noise: float = 0.5, side: float = 0.2, length: float = 0.1) -> Taste:
    """Return the taste of another person: weights around the given ones.

    Args:
        rng: random numbers.
        noise: temperature.
        side: mean bias for the left side.
        length: mean bias for length.
    """
    return Taste(
        score=rng.gauss(1.0, 0.4),
        length=rng.gauss(length, 0.1),
        side=rng.gauss(side, 0.1),
        temperature=noise * math.exp(rng.gauss(0.0, 0.3)),
    )


class Person:
    """A simulated person with a signed-in client.

    Args:
        address: of the server, such as http://127.0.0.1:8000.
        path: of a personal link.
        taste: how the person judges.
        score: score of a text.
        seed: of the person's random numbers.
        known: texts of the completions of a practice or check item -> its answer (see `answers`).
    """

    def __init__(
        self, address: str, path: str, taste: Taste, score: Score, seed: int, known: Known | None = None
    ) -> None:
        self.taste, self.score, self.known = taste, score, known or {}
        self.rng = random.Random(seed)
        self.votes = 0
        self._client = httpx.Client(base_url=address, timeout=60.0)
        answer = self._client.post(path)
        if answer.status_code != 303:
            raise FaultError(f"a simulated person could not sign in: {answer.status_code} {answer.text[:200]}")
        from rlalign.feedback.people import csrf_token
        from rlalign.feedback.web.access import COOKIE

        # as the pages do, which send the token that the server wrote into them
        self._client.headers["X-CSRF"] = csrf_token(self._client.cookies[COOKIE])

    def post(self, path: str, **body: Any) -> Any:
        """Send a request and return the answer's content.

        Raises:
            FaultError: the server refuses it.
        """
        answer = self._client.post(f"/api/{path}", json=body)
        if answer.status_code == 423:
            raise FaultError("the study is paused, so nobody can judge; resume it on the administrator's page")
        if answer.status_code != 200:
            raise FaultError(f"/api/{path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()

    def state(self) -> dict[str, Any]:
        """Return the step that the person is at."""
        content: dict[str, Any] = self._client.get("/api/me").json()
        return content

    def work(self, most: int | None = None) -> int:
        """Judge items until none is left, or a number of them; return the number of votes."""
        while most is None or self.votes < most:
            me = self.state()
            step = me["state"]
            if step == "consent":
                self.post("consent", version=me["consent_version"], agreed=True)
            elif step == "guidelines":
                self.post("guidelines", version=me["guidelines_version"])
            elif step in ("explanation", "break"):
                self.post("continue")
            elif step == "task":
                item = self.post("next")
                if item is None:
                    break
                self.post("vote", lease=item["lease"], active_ms=0, seen=True, **self.judge(item))
                self.votes += not (item["practice"] or item["check"])
            else:
                break
        self._client.close()
        return self.votes

    def utility(self, text: str, *, left: bool) -> float:
        """Return the utility of a completion for this person."""
        t = self.taste
        own = sum(_own_weight(t, word) for word in sorted(set(_WORD.findall(text.casefold())))) if t.own else 0.0
        return t.score * self.score(text) + t.length * len(text) / 100 + t.side * left + own

    def judge(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to an item: the known one in the practice and the check."""
        answer = self.known.get(tuple(c["text"] for c in item["completions"]))
        if answer is not None and (item["practice"] or item["check"]):
            return _as_ballot(item, answer)
        if self.rng.random() < self.taste.skips:
            return {"choice": "skip"}
        if self.taste.careless and self.rng.random() < self.taste.careless:
            return self._random_answer(item)
        utilities = self._utilities([c["text"] for c in item["completions"]])
        if item["kind"] == "pair":
            return {"choice": self._pair(*utilities)}
        noisy = [u + self.taste.temperature * self._gumbel() for u in utilities]
        if item["kind"] == "ranking":
            order = sorted(range(len(noisy)), key=lambda i: -noisy[i])
            return {"ranking": {item["completions"][i]["label"]: rank + 1 for rank, i in enumerate(order)}}
        ratings = {}
        for scale in item["scales"]:
            points = scale["points"]
            share = 1 / (1 + math.exp(-noisy[0]))
            ratings[scale["name"]] = points[min(len(points) - 1, int(share * len(points)))]
        return {"ratings": ratings}

    def _utilities(self, texts: Sequence[str]) -> list[float]:
        """Return the utilities by which an item is judged; a flipped answer has their negatives."""
        utilities = [self.utility(text, left=i == 0 and len(texts) > 1) for i, text in enumerate(texts)]
        if self.taste.flips and self.rng.random() < self.taste.flips:
            return [-utility for utility in utilities]
        return utilities

    def _random_answer(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer that depends on nothing."""
        if item["kind"] == "pair":
            return {"choice": self.rng.choice("ab")}
        if item["kind"] == "ranking":
            labels = [c["label"] for c in item["completions"]]
            return {"ranking": {label: i + 1 for i, label in enumerate(self.rng.sample(labels, len(labels)))}}
        return {"ratings": {scale["name"]: self.rng.choice(scale["points"]) for scale in item["scales"]}}

    def _pair(self, a: float, b: float) -> str:
        gap = (a - b) / self.taste.temperature
        # divided by sqrt(w_A w_B), so that nothing overflows
        half = max(-300.0, min(300.0, gap / 2))
        weights = [math.exp(half), math.exp(-half), self.taste.ties]
        return self.rng.choices(["a", "b", "tie"], weights)[0]

    def _gumbel(self) -> float:
        return -math.log(-math.log(self.rng.uniform(1e-12, 1 - 1e-12)))


def _own_weight(taste: Taste, word: str) -> float:
    # the seed of a text is its digest, so that a word has the same weight in each process
    return taste.own * random.Random(f"{taste.words}:{word}").gauss(0.0, 1.0)


def answers(examples: Sequence[Example]) -> Known:
    """Return the known answers of practice or check items by the texts of their completions."""
    return {example.completions: example.answer.lower() for example in examples}


def reward_score(spec: str) -> Score:
    """Return a reward as a score of texts."""
    import numpy as np

    from rlalign.rewards.weighted_sum import compose

    reward = compose(spec)

    def score(text: str) -> float:
        return float(np.nan_to_num(reward.score("episode", [""], [text], [[]]).total[0]))

    return score


def _as_ballot(item: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Return a known answer as the body of a vote."""
    if item["kind"] == "pair":
        return {"choice": answer}
    if item["kind"] == "rating":
        return {"ratings": {scale["name"]: min(int(answer), scale["points"][-1]) for scale in item["scales"]}}
    return {"ranking": {c["label"]: 1 if c["label"].lower() == answer else 2 for c in item["completions"]}}


def simulate(
    address: str,
    links: Sequence[str],
    tastes: Sequence[Taste],
    score: Score,
    *,
    known: Known | None = None,
    seed: int = 0,
    most: int | None = None,
) -> list[int]:
    """Let simulated people work at the same time; return their numbers of judged items, without practice and check.

    Args:
        address: of the server.
        links: paths of personal links.
        tastes: a taste per person.
        score: score of a text.
        known: answers of practice and check items.
        seed: of the random numbers.
        most: largest number of items per person.

    Raises:
        FaultError: a person could not work.
    """
    people = [
        Person(address, link, taste, score, seed + i, known)
        for i, (link, taste) in enumerate(zip(links, tastes, strict=True))
    ]
    errors: list[BaseException] = []

    def work(person: Person) -> None:
        try:
            person.work(most)
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=work, args=(person,), daemon=True) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [person.votes for person in people]


_SIMULATED = json.dumps({"simulated": "1"})
"""Parameters of the row of a simulated person."""


def mark_simulated(connection: sa.Connection, pseudonyms: Sequence[str]) -> None:
    """Mark annotators as simulated, so that reports name their number.

    Args:
        connection: inside a transaction.
        pseudonyms: of the annotators.
    """
    people = sa.update(annotator).where(annotator.c.pseudonym.in_(pseudonyms))
    connection.execute(people.values(crowd_json=_SIMULATED))


def has_real_votes(connection: sa.Connection) -> bool:
    """Return True if a person who is not marked as simulated has voted."""
    voted = sa.select(vote.c.id).join(annotator, annotator.c.id == vote.c.annotator)
    real = sa.func.coalesce(annotator.c.crowd_json, "") != _SIMULATED
    return connection.execute(voted.where(vote.c.source == "person", real).limit(1)).first() is not None


def simulated_people(connection: sa.Connection) -> int:
    """Return the number of annotators who are marked as simulated and have voted."""
    voted = sa.select(sa.func.count(sa.distinct(vote.c.annotator)))
    voted = voted.join(annotator, annotator.c.id == vote.c.annotator)
    return int(connection.execute(voted.where(annotator.c.crowd_json == _SIMULATED)).scalar_one())

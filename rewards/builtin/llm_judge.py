"""A language model as judge, asked over an OpenAI-compatible endpoint. Off until it is told where to ask."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_CRITERION = "How good is the answer to the request?"
_QUESTION = """{criterion}

Request:
{prompt}

Answer:
{completion}

Reply with one number from 0 (worst) to 10 (best) and nothing else."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_asked = 0  # requests of this process


@reward("llm_judge", timeout_s=300.0, range=(0.0, 1.0))
async def llm_judge(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    base_url: str = "",
    model: str = "",
    criterion: str = _CRITERION,
    key_variable: str = "",
    budget: int = 1_000,
    parallel: int = 8,
    cache: str = "",
    seconds: float = 60.0,
    **columns: Any,
) -> list[float]:
    """A number from 0 to 10 that a language model gives the answer, divided by 10: `llm_judge?base_url=...&model=...`.

    Off until `base_url` (which ends in /v1) and `model` are given. Texts are sent to that server; `key_variable` names
    the environment variable that holds its key. Every judgement is kept in the file `cache` (by default in the cache
    folder) and asked once; after `budget` requests of one process the reward fails instead of asking on. A reply
    without a number from 0 to 10 is a failure (NaN). Range: [0, 1]. Cost: a request a text, `parallel` at once.
    Deterministic only through the cache: it asks at temperature 0, which servers honour more or less.
    Hacked by: flattery, length, confident tone, and by instructions to the judge inside the answer.
    Raises UserError without a server or a model, or when the key's variable is not set.
    """
    if not base_url or not model:
        raise UserError("reward 'llm_judge' asks no one by default: give llm_judge?base_url=http://...%2Fv1&model=NAME")
    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise UserError(f"reward 'llm_judge': the environment variable '{key_variable}' is not set")
    questions = [
        _QUESTION.format(criterion=criterion, prompt=text_of(p), completion=text_of(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    with closing(_open(cache)) as known:
        names = {
            q: hashlib.sha256("\0".join((base_url, model, q)).encode("utf-8", "replace")).hexdigest() for q in questions
        }
        found = {q: _look_up(known, name) for q, name in names.items()}
        missing = [q for q, value in found.items() if value is None]
        _spend(len(missing), budget)
        gate = asyncio.Semaphore(parallel)

        async def ask(question: str) -> str:
            async with gate:
                return await asyncio.to_thread(_ask, base_url, model, question, key, seconds)

        replies = await asyncio.gather(*map(ask, missing), return_exceptions=True)
        for question, reply in zip(missing, replies, strict=True):
            if isinstance(reply, str):  # what was paid for is kept, also when another request failed
                found[question] = reply
                with known:
                    known.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?)", (names[question], reply))
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
    return [mark(found[question] or "") for question in questions]


def mark(reply: str) -> float:
    """The first number of a reply / 10; NaN where there is none from 0 to 10.

    >>> mark("7"), mark("Score: 8.5/10")
    (0.7, 0.85)
    """
    number = _NUMBER.search(reply)
    value = float(number.group()) / 10 if number else math.nan
    return value if 0 <= value <= 1 else math.nan


def _spend(count: int, budget: int) -> None:
    global _asked
    if _asked + count > budget:
        raise RuntimeError(f"{_asked} of {budget} requests are spent and {count} more are needed: raise its budget")
    _asked += count


def _open(cache: str) -> sqlite3.Connection:
    from rlalign.assets import home

    path = Path(cache).expanduser() if cache else home() / "judgements.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = sqlite3.connect(path, timeout=30)
    with known:
        known.execute("CREATE TABLE IF NOT EXISTS judgements (question TEXT PRIMARY KEY, reply TEXT NOT NULL)")
    return known


def _look_up(known: sqlite3.Connection, name: str) -> str | None:
    row = known.execute("SELECT reply FROM judgements WHERE question = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _ask(base_url: str, model: str, question: str, key: str, seconds: float) -> str:
    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
    )
    if request.type not in ("http", "https"):
        raise UserError(f"reward 'llm_judge': base_url '{base_url}' is neither http nor https")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except (urllib.error.URLError, TimeoutError, KeyError, IndexError, ValueError) as error:
        raise RuntimeError(f"'{base_url}' gave no judgement: {error}") from error

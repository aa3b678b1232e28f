"""Reward from a language model as judge, over an OpenAI-compatible endpoint. Off until a server is configured."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import math
import os
import re
import sqlite3
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
_MAX_ANSWER = 1 << 20  # bytes of a response
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_requests = 0  # sent by this process


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
    """Return the number from 0 to 10 that a language model assigns to the answer, divided by 10.

    Named as `llm_judge?base_url=...&model=...`, and off until both are set. The texts are sent to that server, and
    a redirect to another one is an error. Each judgement is stored in the file `cache` and requested once. After
    `budget` requests of one process the reward fails instead of sending more. An answer without a number from 0 to 10
    is a failure (NaN).

    Range: [0, 1].
    Cost: one request per text, `parallel` at once.
    Deterministic only through the cache: requests use temperature 0, which not every server honors.
    Hacked by: flattery, length, confident tone, and instructions to the judge inside the answer.

    Args:
        prompts: B texts or conversations.
        completions: B texts or conversations.
        base_url: address of the server, ending in /v1.
        model: name of the model.
        criterion: question to the judge.
        key_variable: environment variable that holds the key of the server.
        budget: number of requests that one process may send.
        parallel: number of simultaneous requests.
        cache: SQLite file of judgements; by default in the cache folder.
        seconds: timeout per request.
        columns: ignored.

    Raises:
        UserError: no server, no model, the variable of the key is not set, or the server redirects.
        RuntimeError: the budget is exhausted, or a request failed.
    """
    if not base_url or not model:
        raise UserError(
            "reward 'llm_judge': expected a server and a model (there is no default), got "
            f"base_url='{base_url}' and model='{model}'; use llm_judge?base_url=http://...%2Fv1&model=NAME"
        )
    key = os.environ.get(key_variable, "") if key_variable else ""
    if key_variable and not key:
        raise UserError(
            f"reward 'llm_judge': expected a key in the environment variable '{key_variable}', which is not set; "
            f"use export {key_variable}=..."
        )
    key = key.strip()  # the line end of a file that holds the key
    if not (key.isascii() and key.isprintable()):  # http.client would put the key into its error message
        raise UserError(
            f"reward 'llm_judge': expected a key of printable ASCII characters in '{key_variable}', got others; "
            "check the variable"
        )
    questions = [
        _QUESTION.format(criterion=criterion, prompt=text_of(p), completion=text_of(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    with closing(_open(cache)) as database:
        # One entry per distinct question; "replace" because a policy may generate lone surrogates.
        names = {
            q: hashlib.sha256("\0".join((base_url, model, q)).encode("utf-8", "replace")).hexdigest() for q in questions
        }
        answers = {question: _look_up(database, name) for question, name in names.items()}
        missing = [question for question, answer in answers.items() if answer is None]
        _spend(len(missing), budget)
        semaphore = asyncio.Semaphore(parallel)

        async def ask(question: str) -> str:
            async with semaphore:
                return await asyncio.to_thread(_ask, base_url, model, question, key, seconds)

        results = await asyncio.gather(*map(ask, missing), return_exceptions=True)
        for question, result in zip(missing, results, strict=True):
            if isinstance(result, str):  # store paid answers even if another request failed
                answers[question] = result
                with database:
                    database.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?)", (names[question], result))
        for result in results:
            if isinstance(result, BaseException):
                raise result
    return [mark(answers[question] or "") for question in questions]


def mark(answer: str) -> float:
    """Return the first number of the judge's answer / 10; NaN if it is missing or outside of 0 to 10.

    >>> mark("7"), mark("Score: 8.5/10")
    (0.7, 0.85)
    """
    number = _NUMBER.search(answer)
    value = float(number.group()) / 10 if number else math.nan
    return value if 0 <= value <= 1 else math.nan


def _spend(count: int, budget: int) -> None:
    """Count requests against the budget of this process."""
    global _requests
    if _requests + count > budget:
        raise RuntimeError(
            f"reward 'llm_judge': expected at most {budget} requests of one process, got {_requests + count}; "
            "use a larger budget"
        )
    _requests += count


def _open(cache: str) -> sqlite3.Connection:
    from rlalign.assets import home

    path = Path(cache).expanduser() if cache else home() / "judgements.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=30)  # seconds that a writer waits for another process
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS judgements (question TEXT PRIMARY KEY, reply TEXT NOT NULL)")
    return database


def _look_up(database: sqlite3.Connection, name: str) -> str | None:
    row = database.execute("SELECT reply FROM judgements WHERE question = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _ask(base_url: str, model: str, question: str, key: str, seconds: float) -> str:
    """Send one question and return the text of the answer."""
    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
    )
    if request.type not in ("http", "https"):
        raise UserError(
            f"reward 'llm_judge', base_url: expected http or https, got '{base_url}'; use http://HOST:PORT/v1"
        )
    try:
        with _OPENER.open(request, timeout=seconds) as response:
            answer = response.read(_MAX_ANSWER + 1)
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"more than {_MAX_ANSWER} bytes")
        content = str(json.loads(answer)["choices"][0]["message"]["content"])
        return content.encode("utf-8", "replace").decode()  # the cache holds no lone surrogates
    except (
        OSError, http.client.HTTPException, KeyError, IndexError, TypeError, ValueError, RecursionError
    ) as error:  # fmt: skip
        raise RuntimeError(f"expected a judgement from '{base_url}', got {error}; use a running server") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refusal of redirects: the texts and the key go to the configured server and to no other one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        raise UserError(
            f"reward 'llm_judge', base_url: expected a server that answers, got a redirect ({code}) from "
            f"'{req.full_url}' to '{newurl}'; use the address of the server that answers"
        )


_OPENER = urllib.request.build_opener(_NoRedirect)

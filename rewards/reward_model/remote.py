"""A reward model behind a URL: batches, timeouts and retries.

The request is a POST of `{"prompts": [...], "completions": [...], "truncated": [...]}` as JSON, with one entry per
sample, texts or lists of messages. The answer is `{"rewards": [...]}` (or `"scores"`), one number per sample.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlalign.errors import UserError
from rlalign.typecheck import check_range

_MAX_ANSWER = 1 << 24
"""Bytes of an answer."""
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP states after which the same request may succeed."""


class RemoteReward:
    """Score of a reward-model server: `http://127.0.0.1:8000/score?batch=16`.

    Prompts and completions are sent to that server, and a redirect to another one is an error.

    Range: that of the server.
    Cost: one request per `batch` completions.
    Deterministic if the server is.
    Hacked by: what the model behind it does not know.

    Args:
        url: address of the server.
        sleep: waits between attempts.
    """

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._url = url
        self._sleep = sleep

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        truncated: Sequence[bool] | None = None,
        *,
        batch: int = 32,
        seconds: float = 60.0,
        attempts: int = 4,
        key_variable: str = "",
        **columns: Any,
    ) -> list[float]:
        """Return the scores of B completions.

        Args:
            prompts: B texts or conversations.
            completions: B texts or conversations.
            truncated: B flags; None: all completions are finished.
            batch: completions per request.
            seconds: timeout of a request.
            attempts: requests per batch; the pause before the second one is 1 s, and it doubles.
            key_variable: environment variable with the bearer token of the server.
            columns: ignored.

        Raises:
            UserError: an option is out of range, the key is not set, or the server redirects or refuses.
            RuntimeError: the last attempt failed, or the answer has other values.
        """
        check_range("batch of the reward server", batch, least=1)
        check_range("attempts of the reward server", attempts, least=1)
        check_range("seconds of the reward server", seconds, above=0, below=math.inf)
        key = bearer_key(key_variable, "reward server")
        cut = [False] * len(prompts) if truncated is None else [bool(flag) for flag in truncated]
        values: list[float] = []
        for start in range(0, len(prompts), batch):
            rows = slice(start, start + batch)
            body = {"prompts": list(prompts[rows]), "completions": list(completions[rows]), "truncated": cut[rows]}
            request = Request(f"reward '{self._url}': expected scores", key, seconds, attempts, self._sleep)
            values += _values(request.post(self._url, body, _MAX_ANSWER), len(body["prompts"]))
        return values


@dataclass(frozen=True)
class Request:
    """How JSON is sent to a server: with a bearer token, a timeout, and several attempts.

    Attributes:
        expected: beginning of the messages: who asks, and what is expected.
        key: bearer token; empty: none.
        seconds: timeout of an attempt.
        attempts: number of attempts; the pause before the second one is 1 s, and it doubles.
        sleep: waits between attempts.
    """

    expected: str
    key: str = ""
    seconds: float = 60.0
    attempts: int = 4
    sleep: Callable[[float], None] = time.sleep

    def post(self, url: str, body: Any, limit: int) -> bytes:
        """Return the answer to a POST of JSON, at most `limit` + 1 bytes of it.

        Raises:
            UserError: the server redirects or refuses.
            RuntimeError: the last attempt failed.
        """
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        for attempt in range(self.attempts):
            if attempt:
                self.sleep(2.0 ** (attempt - 1))
            try:
                request = urllib.request.Request(url, json.dumps(body).encode(), headers)
                with _OPENER.open(request, timeout=self.seconds) as response:
                    answer: bytes = response.read(limit + 1)
                return answer
            except urllib.error.HTTPError as error:
                if error.code not in _TEMPORARY:
                    raise UserError(f"{self.expected}, got HTTP {error.code}; check the URL and the key") from error
                reason = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
        raise RuntimeError(f"{self.expected}, got {reason} after {self.attempts} attempts; use a running server")


def bearer_key(variable: str, server: str) -> str:
    """Return the bearer token in an environment variable; empty without a name. Raises UserError if it is not set.

    Args:
        variable: name of the environment variable.
        server: kind of the server, for the message.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UserError(
            f"{server}: expected a key in the environment variable '{variable}', which is not set; use export "
            f"{variable}=..."
        )
    if not (key.isascii() and key.isprintable()):  # http.client would put the key into its error message
        raise UserError(f"{server}: expected printable ASCII characters in '{variable}', got others; check it")
    return key


def _values(answer: bytes, count: int) -> list[float]:
    """Return the numbers of an answer."""
    try:
        content = json.loads(answer[:_MAX_ANSWER])
        values = content.get("rewards", content.get("scores"))
        numbers = [math.nan if value is None else float(value) for value in values]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RuntimeError(
            f'reward server: expected {{"rewards": [...]}} of at most {_MAX_ANSWER} bytes, got another answer ({error})'
        ) from error
    if len(numbers) != count:
        raise RuntimeError(f"reward server: expected {count} rewards, got {len(numbers)}")
    return numbers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refusal of redirects: texts and key go to the named server and to no other one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        raise UserError(
            f"'{req.full_url}': expected an answer, got a redirect ({code}) to '{newurl}'; use the address of the "
            "server that answers"
        )


_OPENER = urllib.request.build_opener(_NoRedirect)

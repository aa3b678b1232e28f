"""Requests to an OpenAI-compatible endpoint of chat completions: timeouts, retries, and errors that name the fix."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from rlalign.errors import FaultError, UserError

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_QUOTED = 300
"""Characters of an error's body in a message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a judge answers.

    Attributes:
        url: base address, such as http://127.0.0.1:8000/v1.
        model: name of the model.
        key: API key, which is sent as a bearer token; empty: none.
        timeout_s: longest wait for the next bytes of an answer, in seconds.
        attempts: requests for one answer, with growing waits between them.
        max_tokens: largest number of tokens of an answer.
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = 120.0
    attempts: int = 6
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a model.

    Attributes:
        text: the answer.
        model: name under which the endpoint answered.
        cut: the token limit ended the answer.
        refused: the endpoint marks the answer as a refusal, or a filter withheld it.
    """

    text: str
    model: str = ""
    cut: bool = False
    refused: bool = False


class RejectedError(FaultError):
    """A request that the endpoint refuses (HTTP 400, 413, 422), such as a pair that is longer than the context."""


class Client:
    """A client of an endpoint, for several threads.

    Attributes:
        address: of the requests, without user, password and query, for messages.

    Args:
        endpoint: where the judge answers.
        connections: requests at the same time.
        wait: waits for a number of seconds between two attempts; True, as `threading.Event.wait` returns for an event
            that is set, ends them.

    Raises:
        UserError: the address is none.
    """

    def __init__(
        self, endpoint: Endpoint, *, connections: int = 4, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self.endpoint = endpoint
        self.wait = wait
        parts = urlsplit(checked_url(endpoint.url))
        # a query, such as api-version=1 of Azure, stays behind the path
        address = parts._replace(path=f"{parts.path.rstrip('/')}/chat/completions", fragment="").geturl()
        self._address = address
        self.address = shown_url(address)
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.Client(
            headers=headers,
            timeout=endpoint.timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply:
        """Return the answer to some messages, at temperature 0.

        Timeouts, lost connections and the statuses 408, 409, 425, 429 and 5xx are tried again, after 1, 2, 4, ...
        seconds with a random part, or after the `Retry-After` of the endpoint, at most a minute.

        Raises:
            UserError: the key, the address or the model is wrong (401, 403, 404), or the answer is no chat completion.
            RejectedError: the endpoint refuses this request.
            FaultError: all attempts failed.
        """
        body = {
            "model": self.endpoint.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": self.endpoint.max_tokens,
        }
        reason = ""
        attempt = 0
        for attempt in range(self.endpoint.attempts):
            asked = 0.0
            try:
                answer = self._http.post(self._address, json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if answer.status_code == 200:
                    return self._reply(answer)
                reason = f"HTTP {answer.status_code}: {_excerpt(answer)}"
                if answer.status_code not in _RETRIED and answer.status_code < 500:
                    raise self._failure(answer.status_code, reason)
                asked = _retry_after(answer)
            if attempt + 1 < self.endpoint.attempts:
                # the random part keeps several threads from asking again at the same moment
                backoff = _FIRST_WAIT_S * 2**attempt * random.uniform(0.75, 1.25)
                if self.wait(min(_LONGEST_WAIT_S, max(asked, backoff))) is True:
                    break
        raise FaultError(
            f"'{self.address}' failed {attempt + 1} times, at last with {reason}; the answers so far are "
            "stored: run the command again to continue"
        )

    def _failure(self, status: int, reason: str) -> Exception:
        """Return the error of a status that another attempt does not change."""
        if status in (401, 403):
            return UserError(
                f"'{self.address}': expected a valid API key, got {reason}; use --api-key-env NAME for an environment "
                "variable that holds one"
            )
        if status in (404, 405, 301, 302, 307, 308):
            return UserError(
                f"'{self.address}': expected a chat completion of the model '{self.endpoint.model}', got {reason}; use "
                "the base address of the endpoint as --url, which often ends in /v1, and a model that it serves"
            )
        return RejectedError(f"'{self.address}' refused a request with {reason}")

    def _reply(self, answer: httpx.Response) -> Reply:
        try:
            content = answer.json()
            choice = content["choices"][0]
            message = choice["message"]
            text = message.get("content")
            refusal = message.get("refusal")
            finish = choice.get("finish_reason")
            model = str(content.get("model") or "")
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise UserError(
                f"'{self.address}': expected a chat completion in JSON, got {_excerpt(answer)}; use the base address "
                "of an OpenAI-compatible endpoint as --url"
            ) from None
        refused = bool(refusal) or finish == "content_filter"
        return Reply(storable(text or str(refusal or "")), storable(model), finish == "length", refused)


def checked_url(url: str) -> str:
    """Return the base address of an endpoint.

    Raises:
        UserError: it is no address of HTTP.
    """
    try:
        parsed = httpx.URL(url)
        is_address = parsed.scheme in ("http", "https") and bool(parsed.host)
    except (httpx.InvalidURL, TypeError):  # the message of the error may quote a part of a password
        is_address = False
    if not is_address:
        # an address that is none has no parts of which the secret ones could be left out
        shown = "one that is not shown, since it may hold a secret" if {"@", "?"} & set(str(url)) else f"'{url}'"
        raise UserError(f"--url: expected http:// or https:// and a host, got {shown}; use http://127.0.0.1:8000/v1")
    return url


def shown_url(url: str) -> str:
    """Return an address without user, password and query, which may hold a secret.

    Example:
        >>> shown_url("https://me:secret@host/v1?key=1")
        'https://host/v1'
    """
    return str(httpx.URL(url).copy_with(username=None, password=None, query=None, fragment=None))


def storable(text: str) -> str:
    """Return a text that every database stores: NUL is removed, half characters become question marks."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _excerpt(answer: httpx.Response) -> str:
    """Return the beginning of an answer's body in one line; the message of an error, if it has one."""
    text: Any = answer.text
    try:
        error = answer.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(str(text).split())[:_QUOTED] or "an empty body"


def _retry_after(answer: httpx.Response) -> float:
    """Return the wait that the endpoint asks for, in seconds; 0 if it asks for none, or for a date."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0

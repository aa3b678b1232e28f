"""A teacher behind a URL: a server with the completions interface of OpenAI that scores given token ids.

The request is a POST to URL/completions with `prompt` as lists of token ids. Two forms of the answer are read:
`prompt_logprobs` per choice, as vLLM gives, and `logprobs.token_logprobs` of an echoed prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import sleep as wait
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor

from rlalign.errors import FaultError, UserError
from rlalign.rewards.reward_model.remote import Request, bearer_key
from rlalign.teachers.vocabulary import check_same_vocabulary
from rlalign.tokenizers import HFTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Sampling, Tokenizer

_MAX_ANSWER = 1 << 28
"""Bytes of an answer: about 100 per token."""
_IDS = 1024
"""Token ids per request of the comparison of vocabularies."""


@dataclass(frozen=True)
class EndpointSpec:
    """A URL with its parameters, `http://127.0.0.1:8000/v1?model=NAME&batch=8`.

    Attributes:
        url: address of the interface, without `/completions`.
        model: name of the model, as the server lists it; empty: left out of the request.
        tokenizer: folder or hub id of the teacher's tokenizer; empty: the server is asked for its tokens.
        batch: sequences per request.
        seconds: timeout of a request.
        attempts: requests per batch; the pause before the second one is 1 s, and it doubles.
        key_variable: environment variable with the bearer token of the server.
    """

    url: str
    model: str = ""
    tokenizer: str = ""
    batch: int = 16
    seconds: float = 120.0
    attempts: int = 4
    key_variable: str = ""

    @classmethod
    def parse(cls, spec: str) -> EndpointSpec:
        """Return the parts of a spec.

        Raises:
            UserError: a parameter is unknown or out of range.

        Example:
            >>> EndpointSpec.parse("http://127.0.0.1:8000/v1?model=big&batch=8").batch
            8
        """
        url, _, query = spec.partition("?")
        values: dict[str, Any] = {}
        types: Mapping[str, Callable[[str], Any]] = {
            "model": str, "tokenizer": str, "batch": int, "seconds": float, "attempts": int, "key_variable": str,
        }  # fmt: skip
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name not in types:
                raise UserError(
                    f"teacher '{spec}': unknown parameter '{name}'; use {', '.join(types)}, as in {url}?model=NAME"
                )
            try:
                values[name] = types[name](text)
            except ValueError as error:
                raise UserError(f"teacher '{spec}': expected a number for {name}, got '{text}'") from error
        parsed = cls(url.rstrip("/"), **values)
        check_range("batch of the teacher", parsed.batch, least=1)
        check_range("attempts of the teacher", parsed.attempts, least=1)
        check_range("seconds of the teacher", parsed.seconds, above=0, below=math.inf)
        return parsed


class EndpointTeacher:
    """A model behind a URL that scores tokens. It cannot sample.

    Token ids of prompts and completions are sent to that server, and a redirect to another one is an error.

    Args:
        spec: URL with parameters.
        sleep: waits between attempts.

    Raises:
        UserError: a parameter is wrong, or the key is not set.
    """

    def __init__(self, spec: str, sleep: Callable[[float], None] = wait) -> None:
        self.name = spec
        self.spec = EndpointSpec.parse(spec)
        key = bearer_key(self.spec.key_variable, "teacher")
        expected = f"teacher '{self.spec.url}': expected log-probs of token ids"
        self._request = Request(expected, key, self.spec.seconds, self.spec.attempts, sleep)

    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Return float32 [N, L] log-probs of the masked tokens under the teacher; 0 off the mask.

        Args:
            tokens: int64 [N, L].
            lengths: int64 [N].
            action_mask: bool [N, L].
            sampling: the model's own distribution; a server gives no other.

        Raises:
            UserError: the server refuses, or its answer has no log-probs of the ids.
            FaultError: the last attempt failed.
        """
        if sampling != Sampling():
            raise UserError(f"teacher '{self.spec.url}': expected temperature 1, top_k 0 and top_p 1, got {sampling}")
        rows = [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        result = torch.zeros(tokens.shape)
        for start in range(0, len(rows), self.spec.batch):
            part = rows[start : start + self.spec.batch]
            for i, values in enumerate(self._scores(part), start):
                result[i, : len(values)] = torch.tensor(values)
        return result.where(action_mask.cpu(), 0.0).to(action_mask.device)

    def check(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        """Check that the server scores token ids, and that its tokens are those of the policy.

        Args:
            tokenizer: of the policy.
            context: a prompt of two tokens or more.

        Raises:
            UserError: it does not, or they are not.
        """
        self._scores([list(context)])
        if self.spec.tokenizer:
            theirs = HFTokenizer(self.spec.tokenizer)
            # generation_config.json, which may name more ids that end a turn, is not a file of a tokenizer
            ours: frozenset[int] = getattr(tokenizer, "stop_ids", frozenset())
            theirs.stop_ids = theirs.stop_ids | (ours if theirs.eos_id in ours else frozenset())
            theirs.vocab_size = max(theirs.vocab_size, tokenizer.vocab_size)  # padding is the server's affair
            check_same_vocabulary(tokenizer, theirs, self.name)
            return
        count = len(tokenizer.hf) if isinstance(tokenizer, HFTokenizer) else tokenizer.vocab_size
        for start in range(0, count, _IDS):
            ids = list(range(start, min(start + _IDS, count)))
            expected, got = _text(tokenizer, ids), self._server_text(ids)
            if got != expected:
                at = next((k for k, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), 0)
                raise UserError(
                    f"teacher '{self.spec.url}': expected the policy's vocabulary, got another text for the ids "
                    f"{ids[0]} to {ids[-1]}: {got[at : at + 20]!r} in place of {expected[at : at + 20]!r}; use a "
                    "teacher with the policy's tokenizer, or name its tokenizer with &tokenizer=FOLDER"
                )

    def _server_text(self, ids: list[int]) -> str:
        """Return the text that the server decodes ids to: `/detokenize` of vLLM and llama.cpp."""
        url = f"{self.spec.url.removesuffix('/v1')}/detokenize"
        try:
            answer = self._post(url, {"tokens": ids})
        except UserError as error:
            raise UserError(
                f"teacher '{self.spec.url}': expected the tokens of its vocabulary from {url}, got none ({error}); "
                "name its tokenizer with &tokenizer=FOLDER"
            ) from error
        return str(answer.get("prompt", answer.get("content", "")))

    def _scores(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-probs of each row, 0 for its first token, which nothing precedes."""
        body = {
            "prompt": list(rows), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "echo": True,
            "logprobs": 0,
        }  # fmt: skip
        choices = self._post(f"{self.spec.url}/completions", body).get("choices")
        if not isinstance(choices, list) or len(choices) != len(rows):
            count = len(choices) if isinstance(choices, list) else "none"
            raise self._unsupported(f"{count} choices for {len(rows)} rows")
        if all(isinstance(choice, dict) and isinstance(choice.get("index"), int) for choice in choices):
            choices = sorted(choices, key=lambda choice: int(choice["index"]))
        return [self._row(choice, row) for choice, row in zip(choices, rows, strict=True)]

    def _row(self, choice: Any, row: Sequence[int]) -> list[float]:
        """Return the log-probs of one row from its choice."""
        try:
            listed = choice.get("prompt_logprobs")
            if listed is not None:
                if len(listed) != len(row):
                    raise self._unsupported(f"{len(listed)} positions for {len(row)} ids")
                pairs = zip(listed[1:], row[1:], strict=True)
                values = [float(entry[str(token)]["logprob"]) for entry, token in pairs]
            else:
                values = [float(value) for value in choice["logprobs"]["token_logprobs"][1 : len(row)]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._unsupported(f"an answer without them ({type(error).__name__}: {error})") from error
        if len(values) != len(row) - 1 or not all(math.isfinite(value) and value <= 1e-3 for value in values):
            raise self._unsupported(f"{len(values)} log-probs for {len(row)} ids, or numbers that are none")
        return [0.0, *values]

    def _post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.spec.model:
            body = {"model": self.spec.model, **body}
        try:
            answer = self._request.post(url, body, _MAX_ANSWER)
        except RuntimeError as error:
            raise FaultError(f"{error}, then resume the run") from error
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise self._unsupported(f"no JSON ({answer[:60]!r})") from error
        if not isinstance(content, dict):
            raise self._unsupported(f"a {type(content).__name__}")
        return content

    def _unsupported(self, got: str) -> UserError:
        return UserError(
            f"teacher '{self.spec.url}': expected log-probs of token ids, got {got}; use a server that takes token ids "
            "as prompt and answers prompt_logprobs, or echo with logprobs, such as vLLM"
        )


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of ids, special tokens included, as a server decodes them."""
    return str(tokenizer.hf.decode(ids)) if isinstance(tokenizer, HFTokenizer) else tokenizer.decode(ids)

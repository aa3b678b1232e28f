"""A GGUF file that llama.cpp loads, through the server of xllamacpp in this process.

The server gives exact log-probs: with `n_probs` as large as the vocabulary and `post_sampling_probs` off it returns the
log-softmax of the raw logits of the next token, for each token. One request scores one position; the context of the
position before is in its cache. An answer lacks the log-probs of tokens that end inside a character of several bytes.
Scoring requests therefore draw EOS, by a bias that does not change the raw logits.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

_LOWEST = -1e4
"""Log-prob in place of that of a token whose probability is 0 in float32, which the server gives as -3e38."""
_BIAS = 1e4
"""Of the logit of EOS, larger than any difference of logits."""
_COMPARED = 20
"""Most probable tokens that the chat endpoint and the same ids are compared on; the second half may differ by ties."""
_SPECIAL = {"parse_special": True}
_TIMEOUT = 3600.0
_TRIES = 5
_RAW = {"samplers": ["temperature"], "temperature": 1.0, "return_tokens": True, "cache_prompt": True}
_OFF = {"min_p": 0.0, "typical_p": 1.0, "top_n_sigma": -1.0}


class LlamaEngine:
    """A GGUF file in llama.cpp, on the CPU.

    Args:
        path: the file.
        context: tokens per row.
        parallel: rows that are decoded at a time.
        exact: keys and values in float32, attention without the fused kernel, one row at a time; else the defaults of
            llama.cpp, with which people run the file.
    """

    def __init__(self, path: Path, context: int, parallel: int, *, exact: bool) -> None:
        import os

        import xllamacpp

        threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context * parallel
        parameters.n_parallel = parallel
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_gpu_layers = 0
        parameters.warmup = False
        parameters.fit_params = False  # it would shrink the context to the free memory
        parameters.ui = False
        parameters.verbosity = 0
        parameters.endpoint_props = True
        parameters.cache_ram_mib = 0  # no second copy of prompts, which would count as memory
        if exact:
            parameters.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
            parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(parameters)
        self._url: str = self._server.listening_address
        self._parallel = parallel
        with urlopen(f"{self._url}/props", timeout=_TIMEOUT) as answer:
            eos = json.loads(answer.read())["eos_token"]
        (self._eos,) = self._post("/tokenize", {"content": eos, "add_special": False, **_SPECIAL})["tokens"]
        self._vocabulary = len(self._next([0], 1 << 30))

    def logprobs(self, row: list[int], positions: list[int]) -> NDArray[np.float32]:
        """Return log-probs [n, V] of the token after each of n positions."""
        result = np.full((len(positions), self._vocabulary), _LOWEST, dtype=np.float32)
        for i, position in enumerate(positions):
            for token, logprob in self._next(row[: position + 1], self._vocabulary).items():
                result[i, token] = max(logprob, _LOWEST)
        return result

    def _next(self, context: list[int], count: int) -> dict[int, float]:
        """Return the log-probs of the `count` most probable next tokens by id."""
        body = {"prompt": context, "n_predict": 1, "n_probs": count, "logit_bias": [[self._eos, _BIAS]], **_RAW}
        (entry,) = self._post("/completion", body)["completion_probabilities"]
        return {token["id"]: token["logprob"] for token in entry["top_logprobs"]}

    def sample(self, contexts: list[list[int]], request: dict[str, Any]) -> tuple[list[list[int]], list[list[float]]]:
        """Continue contexts; see `FormEngine.sample`. Each row has a seed of its own."""
        plain = request["temperature"] == 1.0 and not request["top_k"] and request["top_p"] == 1.0
        body: dict[str, Any] = {**_RAW, "n_probs": 1}
        if not plain:  # llama.cpp applies its samplers in the order of the list, as `rlalign.types.Sampling` does
            body |= {
                "samplers": ["temperature", "top_k", "top_p"], "post_sampling_probs": True,
                "temperature": request["temperature"], "top_k": request["top_k"], "top_p": request["top_p"], **_OFF,
            }  # fmt: skip
        if request["greedy"]:
            body |= {"samplers": ["top_k", "temperature"], "top_k": 1, "post_sampling_probs": False}
        stop = set(request["stop_ids"])

        def continue_row(i: int) -> tuple[list[int], list[float]]:
            limit = request["max_new"][i]
            if limit == 0:
                return [], []
            answer = self._post(
                "/completion",
                {**body, "prompt": contexts[i], "n_predict": limit, "seed": (request["seed"] + i) % (2**31)},
            )
            tokens: list[int] = answer["tokens"]
            # a token that ends a turn in training may not do so in llama.cpp
            end = next((k + 1 for k, token in enumerate(tokens) if token in stop), len(tokens))
            entries = answer.get("completion_probabilities", [])
            return tokens[:end], self._of_tokens(contexts[i], tokens[:end], entries, request)

        with ThreadPoolExecutor(self._parallel) as pool:
            rows = list(pool.map(continue_row, range(len(contexts))))
        return [tokens for tokens, _ in rows], [logprobs for _, logprobs in rows]

    def _of_tokens(
        self, context: list[int], tokens: list[int], entries: list[dict[str, Any]], request: dict[str, Any]
    ) -> list[float]:
        """Return the log-probs of sampled tokens from the entries of the answer, which lacks parts of characters."""
        logprobs = []
        remaining = list(entries)
        for k, token in enumerate(tokens):
            if remaining and remaining[0]["id"] == token:
                entry = remaining.pop(0)
                logprobs.append(float(entry["logprob"]) if "logprob" in entry else float(np.log(entry["prob"])))
            else:  # torch is imported here alone: a process whose memory is measured does not sample
                import torch

                from rlalign.export.transformers_engine import sampling_logprobs

                raw = torch.from_numpy(self.logprobs([*context, *tokens[:k]], [len(context) + k - 1]))
                logprobs.append(float(sampling_logprobs(raw, request)[0, token]))
        return logprobs

    def generate(self, context: list[int], rows: int, count: int) -> None:
        """Generate exactly `count` tokens in each of `rows` rows."""
        body = {**_RAW, "prompt": context, "n_predict": count, "ignore_eos": True, "cache_prompt": False}
        with ThreadPoolExecutor(rows) as pool:
            list(pool.map(lambda seed: self._post("/completion", {**body, "seed": seed}), range(rows)))

    def text(self, texts: list[str], chats: list[Any], ids: list[list[int]]) -> dict[str, Any]:
        """Return what llama.cpp's own tokenizer and chat template make of texts and messages.

        Args:
            texts: texts, in which special tokens are read.
            chats: messages.
            ids: the expected ids of each chat.

        Returns:
            `prompts`: the text of each chat; `ids`: the ids of each text, with those that begin a text, and of each of
            `prompts`; `nats`: the largest difference of the log-probs of the first answered token between the chat
            endpoint and the ids.
        """
        prompts = [self._post("/apply-template", {"messages": chat})["prompt"] for chat in chats]
        nats = []
        for chat, expected in zip(chats, ids, strict=True):
            settings = {"messages": chat, "max_tokens": 1, "logprobs": True, "top_logprobs": _COMPARED}
            bias = {"logit_bias": [[self._eos, _BIAS]]}
            answer = self._post("/v1/chat/completions", {**settings, **bias, **_RAW})
            found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            values = self._next(expected, _COMPARED)
            same = answer["usage"]["prompt_tokens"] == len(expected)
            gaps = [abs(token["logprob"] - values.get(token["id"], _LOWEST)) for token in found[: _COMPARED // 2]]
            nats.append(max(gaps) if same else -_LOWEST)
        # of a prompt that begins with BOS llama.cpp removes BOS, which the tokenizer adds
        added = {"add_special": True, **_SPECIAL}
        tokenized = [self._post("/tokenize", {"content": text, **added}) for text in (*texts, *prompts)]
        return {"ids": [answer["tokens"] for answer in tokenized], "prompts": prompts, "nats": nats}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the answer to a request. It holds its seed, so it is sent again if the server drops the connection,
        which happens when many are opened at a time on a busy machine."""
        request = Request(self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        for left in reversed(range(_TRIES)):
            try:
                with urlopen(request, timeout=_TIMEOUT) as answer:
                    return json.loads(answer.read())
            except HTTPError as error:
                raise RuntimeError(
                    f"llama.cpp answers {error.code}: {error.read()[:500].decode(errors='replace')}"
                ) from error
            except (URLError, ConnectionError) as error:
                cause = error.reason if isinstance(error, URLError) else error
                if not (left and isinstance(cause, ConnectionError)):
                    raise
        raise AssertionError("the last try raises")

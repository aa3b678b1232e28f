"""The process that loads one exported form and answers requests: one JSON object per line on its input and output.

It imports only what the form's own loader needs, so that its memory is that of the loader. Its standard output is a
private copy: what a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray


class FormEngine(Protocol):
    """A loaded form. `TransformersEngine` and `LlamaEngine` are the two."""

    def logprobs(self, row: list[int], positions: list[int]) -> NDArray[np.float32]:
        """Return log-probs [n, V] of the token after each of n positions of a row of token ids."""
        ...

    def sample(self, contexts: list[list[int]], request: dict[str, Any]) -> tuple[list[list[int]], list[list[float]]]:
        """Continue contexts; return the tokens and their log-probs under the sampling distribution.

        `request` has max_new (per context), stop_ids, temperature, top_k, top_p, greedy and seed.
        """
        ...

    def generate(self, context: list[int], rows: int, count: int) -> None:
        """Generate exactly `count` tokens in each of `rows` rows from one context: the load of a speed measurement."""
        ...

    def text(self, texts: list[str], chats: list[Any], ids: list[list[int]]) -> dict[str, Any]:
        """Return the ids and prompts that the loader makes of texts and chat messages; see `LlamaEngine.text`."""
        ...


def serve(requests: TextIO, answers: TextIO) -> None:
    """Load the form that the first line names, then answer requests until the input ends."""
    start = json.loads(requests.readline())
    engine = _load(start)
    _write(answers, {"loaded": True})
    for line in requests:
        request = json.loads(line)
        try:
            _write(answers, _answer(engine, request))
        except Exception as error:
            _write(answers, {"error": f"{type(error).__name__}: {error}"})


def _load(start: dict[str, Any]) -> FormEngine:
    if start["loader"] == "llama.cpp":
        from rlalign.export.llama_engine import LlamaEngine

        return LlamaEngine(Path(start["path"]), start["context"], start["parallel"], exact=start["exact"])
    from rlalign.export.transformers_engine import TransformersEngine

    return TransformersEngine(start["path"], start["adapter"], start["dtype"], start["base"])


def _answer(engine: FormEngine, request: dict[str, Any]) -> dict[str, Any]:
    operation = request["operation"]
    if operation == "logprobs":
        parts = [
            engine.logprobs(row, positions)
            for row, positions in zip(request["rows"], request["positions"], strict=True)
        ]
        np.save(request["output"], np.concatenate(parts))
        return {}
    if operation == "sample":
        tokens, logprobs = engine.sample(request["contexts"], request)
        return {"tokens": tokens, "logprobs": logprobs}
    if operation == "generate":
        engine.generate(request["context"], request["rows"], request["count"])
        return {}
    if operation == "text":
        return engine.text(request["texts"], request["chats"], request["ids"])
    return {"peak": peak_memory()}


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes. Pages of a mapped file count."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: getrusage would give the peak of the process that started this one, if it is larger
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _write(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, private)
    private.flush()
    os._exit(0)  # the threads of llama.cpp's server do not end

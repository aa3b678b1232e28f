"""A form loaded by its own loader in a process of its own, and the sampler of that process."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlalign.errors import FaultError
from rlalign.policies.sampling.sampler import CachedPrefix, Samples, token_limits
from rlalign.types import Sampling

_LAST_WORDS = 2000  # characters of the process's messages in an error


class Engine:
    """A process that has loaded one form. Close it, or use it as a context manager.

    Args:
        path: folder, GGUF file, or hub id of a base.
        loader: transformers or llama.cpp.
        adapter: folder of a peft adapter over `path`; None without one.
        dtype: in which transformers computes: float32, or auto for the dtype of the files.
        context: tokens per row that llama.cpp reserves.
        parallel: rows that llama.cpp decodes at a time.
        base: quantization of the base of an adapter; see `TransformersEngine`.
        exact: llama.cpp keeps keys and values in float32 and attends without its fused kernel; else its defaults.

    Raises:
        FaultError: the loader refuses the form; with its last message.
    """

    def __init__(
        self,
        path: Path | str,
        loader: str,
        *,
        adapter: Path | None = None,
        dtype: str = "float32",
        context: int = 512,
        parallel: int = 1,
        exact: bool = True,
        base: tuple[str, str] | None = None,
    ) -> None:
        self.path = path
        self.loader = loader
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # closed by `close`
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlalign.export.engine_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        try:
            self._ask(
                {
                    "path": str(path), "loader": loader, "adapter": None if adapter is None else str(adapter),
                    "dtype": dtype, "context": context, "parallel": parallel, "exact": exact, "base": base,
                }
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def logprobs(self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return log-probs [n, V] of the token after each of n positions, over all rows.

        Args:
            rows: token ids.
            positions: for each row, indices into it.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "logprobs.npy"
            self._ask(
                {
                    "operation": "logprobs", "rows": [list(row) for row in rows],
                    "positions": [list(part) for part in positions], "output": str(output),
                }
            )  # fmt: skip
            result: NDArray[np.float32] = np.load(output)
        return result

    def sample(self, contexts: Sequence[Sequence[int]], **request: Any) -> tuple[list[list[int]], list[list[float]]]:
        """Continue contexts; see `FormEngine.sample`."""
        answer = self._ask({"operation": "sample", "contexts": [list(context) for context in contexts], **request})
        return answer["tokens"], answer["logprobs"]

    def speed(self, context: Sequence[int], rows: int, count: int, *, repeats: int = 1) -> float:
        """Return generated tokens per second, prompt included in the time, of `rows` rows of `count` tokens.

        The median of `repeats` calls, after one of two tokens that is not counted: the first call of each loader
        allocates and imports.
        """
        request = {"operation": "generate", "context": list(context), "rows": rows}
        self._ask({**request, "count": 2})
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._ask({**request, "count": count})
            seconds.append(time.perf_counter() - start)
        return rows * count / statistics.median(seconds)

    def text(self, texts: Sequence[str], chats: Sequence[Any], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the ids of texts and the prompts of chats by the loader's own tokenizer; see `LlamaEngine.text`."""
        return self._ask({"operation": "text", "texts": list(texts), "chats": list(chats), "ids": list(ids)})

    def peak_memory(self) -> int:
        """Return the largest resident memory of the process so far, in bytes."""
        return int(self._ask({"operation": "memory"})["peak"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        # a process that is killed while it writes leaves a part of a line
        answer: dict[str, Any] = json.loads(line) if line.endswith("\n") else {"error": self._last_words()}
        if "error" in answer:
            raise FaultError(f"'{self.path}': expected a file that its own loader reads, got: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        """Return the end of what the process has printed, in one line, and the signal that ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.returncode == -9:
            return "the process was killed, most likely for lack of memory; use fewer --prompts or a smaller policy"
        self._log.seek(0)
        text = " ".join(self._log.read()[-_LAST_WORDS:].split())
        return text or "the process ended without a message"


class EngineSampler:
    """The sampler (`rlalign.policies.sampling.sampler.Sampler`) of a form that another process has loaded.

    Args:
        engine: the process.
        pad_id: right-pads the tokens.
    """

    def __init__(self, engine: Engine, pad_id: int) -> None:
        self._engine = engine
        self._pad_id = pad_id

    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_new: int | Sequence[int],
        stop_ids: frozenset[int],
        sampling: Sampling,
        generator: torch.Generator,
        greedy: bool = False,
        cached: Sequence[CachedPrefix | None] | None = None,
    ) -> Samples:
        """Draw tokens of each row until a stop id or its limit; nothing is cached between turns."""
        limits = token_limits(contexts, max_new)
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        tokens, logprobs = self._engine.sample(
            contexts,
            max_new=limits,
            stop_ids=sorted(stop_ids),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            greedy=greedy,
            seed=seed,
        )
        lengths = torch.tensor([len(row) for row in tokens])
        width = max(1, int(lengths.max()))
        ids = torch.full((len(tokens), width), self._pad_id)
        values = torch.zeros(len(tokens), width)
        for i, (row, row_logprobs) in enumerate(zip(tokens, logprobs, strict=True)):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            values[i, : len(row)] = torch.tensor(row_logprobs)
        return Samples(ids, lengths, values)

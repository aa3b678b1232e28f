"""Cost of the environment per token: whole turns, one column of tokens per step, and Gymnasium's SyncVectorEnv.

    python benchmarks/env.py

64 rows of 128 tokens (bytes, no reward, no stop token among them), in microseconds per token with and without the
reset. SyncVectorEnv steps 64 `TokenEnv`s, the same environment token by token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from machine import write

from rlalign.envs.mdp import TextMDP
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv

TASKS = [{"prompt": f"sentence number {i}"} for i in range(100)]


class Echo(TextMDP):
    """An environment of one turn without a reward."""

    id = "bench/Echo-v0"
    max_prompt = 32


def measure(reset: Callable[[], Any], steps: Callable[[], Any], tokens: int, repeats: int) -> dict[str, float]:
    """Return the medians of the microseconds per token of `steps` alone, and of `reset` and `steps`."""
    without_reset = []
    with_reset = []
    for _ in range(repeats):
        start = time.perf_counter()
        reset()
        middle = time.perf_counter()
        steps()
        end = time.perf_counter()
        without_reset.append((end - middle) / tokens * 1e6)
        with_reset.append((end - start) / tokens * 1e6)
    return {"step": round(statistics.median(without_reset), 3), "with_reset": round(statistics.median(with_reset), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    rows = args.rows
    length = args.length
    mdp = Echo(source=TASKS, max_new=length)
    ours = TokenVectorEnv(mdp, rows)
    theirs = SyncVectorEnv([lambda: TokenEnv(mdp)] * rows, autoreset_mode=AutoresetMode.DISABLED)
    tokens = np.random.default_rng(0).integers(ord("a"), ord("z"), (rows, length))
    lengths = np.full(rows, length)

    def columns(env: Any) -> Callable[[], None]:
        def steps() -> None:
            for t in range(length):
                env.step(tokens[:, t])

        return steps

    methods: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "step_tokens": (lambda: ours.reset(seed=0), lambda: ours.step_tokens(tokens, lengths)),
        "step": (lambda: ours.reset(seed=0), columns(ours)),
        "SyncVectorEnv": (lambda: theirs.reset(seed=0), columns(theirs)),
    }
    results = {}
    print(f"{'microseconds per token':24} {'step':>8} {'with reset':>11}")
    for name, (reset, steps) in methods.items():
        results[name] = measure(reset, steps, rows * length, args.repeats)
        print(f"{name:24} {results[name]['step']:8} {results[name]['with_reset']:11}", flush=True)
    print(write("env", {"rows": rows, "length": length, "microseconds_per_token": results}))


if __name__ == "__main__":
    main()

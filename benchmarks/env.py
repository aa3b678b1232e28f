"""What the environment costs per token: whole turns, a token column at a time, and Gymnasium's SyncVectorEnv.

    python benchmarks/env.py

64 rows of 128 tokens (bytes, no reward, no stop token among them): microseconds per token, reset included and not.
SyncVectorEnv steps 64 `TokenEnv`s, the same environment token by token.
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
    """A prompt and a turn."""

    id = "bench/Echo-v0"
    max_prompt = 32


def measured(begin: Callable[[], Any], play: Callable[[], Any], tokens: int, repeats: int) -> dict[str, float]:
    """Medians of the microseconds per token of `play` alone, and of `begin` and `play`."""
    alone, both = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        begin()
        middle = time.perf_counter()
        play()
        end = time.perf_counter()
        alone.append((end - middle) / tokens * 1e6)
        both.append((end - start) / tokens * 1e6)
    return {"step": round(statistics.median(alone), 3), "with_reset": round(statistics.median(both), 3)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    rows, length = args.rows, args.length
    mdp = Echo(source=TASKS, max_new=length)
    ours = TokenVectorEnv(mdp, rows)
    theirs = SyncVectorEnv([lambda: TokenEnv(mdp)] * rows, autoreset_mode=AutoresetMode.DISABLED)
    tokens = np.random.default_rng(0).integers(ord("a"), ord("z"), (rows, length))
    lengths = np.full(rows, length)

    def columns(env: Any) -> Callable[[], None]:
        def play() -> None:
            for t in range(length):
                env.step(tokens[:, t])

        return play

    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "step_tokens": (lambda: ours.reset(seed=0), lambda: ours.step_tokens(tokens, lengths)),
        "step": (lambda: ours.reset(seed=0), columns(ours)),
        "SyncVectorEnv": (lambda: theirs.reset(seed=0), columns(theirs)),
    }
    found = {}
    print(f"{'microseconds per token':24} {'step':>8} {'with reset':>11}")
    for name, (begin, play) in ways.items():
        found[name] = measured(begin, play, rows * length, args.repeats)
        print(f"{name:24} {found[name]['step']:8} {found[name]['with_reset']:11}", flush=True)
    print(write("env", {"rows": rows, "length": length, "microseconds_per_token": found}))


if __name__ == "__main__":
    main()

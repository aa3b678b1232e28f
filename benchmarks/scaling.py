"""How the cost of a rollout and of a gradient grows with samples and with tokens, from 1 to 16 times a base size.

    python benchmarks/scaling.py

The base is 8 rows of 32 tokens of the small model. Cost per token should not grow: falling means that what a step costs
besides its arithmetic is spread over more of it; with the length of a completion attention adds to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import shapes
import torch
from machine import clock, write

from rlalign.policies.factory import make_sampler
from rlalign.types import Sampling

ROWS, TOKENS, PROMPT = 8, 32, 16


def cost(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of the quickest of some runs, after one to warm up: the processor's on a CPU, by the wall elsewhere."""
    kind = "cpu" if device == "cpu" else "wall"
    run()
    times = []
    for _ in range(repeats):
        began = clock(device, kind)
        run()
        times.append(clock(device, kind) - began)
    return min(times)


def measure(policy: Any, rows: int, tokens: int, device: str, repeats: int) -> dict[str, float]:
    contexts = [
        p for p in shapes.prompts(policy.tokenizer.vocab_size, count=rows // 8, longest=PROMPT) for _ in range(8)
    ]
    sampler = make_sampler("decode", policy)

    def rollout() -> Any:
        policy.begin_rollout()
        return sampler.sample(
            contexts,
            max_new=tokens,
            stop_ids=frozenset(),
            sampling=Sampling(),
            generator=torch.Generator(policy.device).manual_seed(0),
        )

    samples = rollout()
    lengths = torch.tensor([len(c) + tokens for c in contexts])
    batch, mask = (
        torch.zeros(rows, int(lengths.max()), dtype=torch.int64),
        torch.zeros(rows, int(lengths.max()), dtype=torch.bool),
    )
    for i, context in enumerate(contexts):
        batch[i, : lengths[i]] = torch.tensor([*context, *samples.tokens[i].tolist()])
        mask[i, len(context) : lengths[i]] = True

    def gradient() -> None:
        for part in torch.arange(rows).split(ROWS):
            policy.score(batch[part], lengths[part], mask[part], Sampling()).logprobs.sum().backward()

    return {"rollout": cost(rollout, device, repeats), "gradient": cost(gradient, device, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="small", choices=shapes.SIZES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    policy = shapes.policy(args.size, dtype=args.dtype, device=args.device)
    lines = []
    print("times the base    rollout: s, µs/token    gradient: s, µs/token")
    for what in ("samples", "tokens"):
        for factor in (1, 2, 4, 8, 16):
            rows, tokens = (ROWS * factor, TOKENS) if what == "samples" else (ROWS, TOKENS * factor)
            seconds = measure(policy, rows, tokens, args.device, args.repeats)
            each = {name: s / (rows * tokens) * 1e6 for name, s in seconds.items()}
            line = {"what": what, "factor": factor, "seconds": seconds, "us_per_token": each}
            lines.append(line)
            told = "    ".join(f"{seconds[k]:9.3f} {each[k]:9.0f}" for k in seconds)
            print(f"{factor:3} × {what:8}  {told}", flush=True)
    told = {"size": args.size, "dtype": args.dtype, "device": args.device, "rows": ROWS, "tokens": TOKENS}
    print(write("scaling" if args.device == "cpu" else "scaling_cuda", {**told, "lines": lines}))


if __name__ == "__main__":
    main()

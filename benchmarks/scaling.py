"""Cost of a rollout and of a gradient for 1 to 16 times the samples or tokens of a base size.

    python benchmarks/scaling.py

The base is 8 rows of 32 tokens of the small model. The cost per token should not grow. It falls where the fixed cost of
a step is shared by more tokens, and rises with the length of a completion because of attention.
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
    """Return the seconds of the fastest of several runs after a warm-up: processor time on a CPU, else wall clock."""
    kind = "cpu" if device == "cpu" else "wall"
    run()
    times = []
    for _ in range(repeats):
        start = clock(device, kind)
        run()
        times.append(clock(device, kind) - start)
    return min(times)


def measure(policy: Any, rows: int, tokens: int, device: str, repeats: int) -> dict[str, float]:
    """Return the seconds of a rollout and of a gradient of `rows` completions of `tokens` tokens."""
    contexts = []
    for prompt in shapes.prompts(policy.tokenizer.vocab_size, count=rows // 8, longest=PROMPT):
        contexts += [prompt] * 8
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
    batch = torch.zeros(rows, int(lengths.max()), dtype=torch.int64)
    mask = torch.zeros(rows, int(lengths.max()), dtype=torch.bool)
    for i, context in enumerate(contexts):
        batch[i, : lengths[i]] = torch.tensor([*context, *samples.tokens[i].tolist()])
        mask[i, len(context) : lengths[i]] = True

    def gradient() -> None:
        for part in torch.arange(rows).split(ROWS):
            policy.score(batch[part], lengths[part], mask[part], Sampling()).logprobs.sum().backward()

    return {"rollout": cost(rollout, device, repeats), "gradient": cost(gradient, device, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            per_token = {name: s / (rows * tokens) * 1e6 for name, s in seconds.items()}
            line = {"what": what, "factor": factor, "seconds": seconds, "us_per_token": per_token}
            lines.append(line)
            columns = "    ".join(f"{seconds[k]:9.3f} {per_token[k]:9.0f}" for k in seconds)
            print(f"{factor:3} × {what:8}  {columns}", flush=True)
    setting = {"size": args.size, "dtype": args.dtype, "device": args.device, "rows": ROWS, "tokens": TOKENS}
    print(write("scaling" if args.device == "cpu" else "scaling_cuda", {**setting, "lines": lines}))


if __name__ == "__main__":
    main()

"""Rollouts of this library against transformers.generate: same model, prompts, numbers of tokens and dtype.

    python benchmarks/rollout.py --sizes small mid --dtypes float32 bfloat16
    python benchmarks/rollout.py --device cuda --sizes 0.5b 1.5b --dtypes bfloat16

Runs alternate. Both sides get the same prompts (repeated for each sample of a group, as generate expects), sample from
the full softmax and return each token's log-prob. Each row has a fixed number of tokens, so that both do the same work.
generate runs the transformers model with its weights in the dtype. Our time includes the preparation once per rollout.
"""

from __future__ import annotations

import gc
import statistics
from typing import Any

import shapes
import torch
from machine import clock, merge

from rlalign.policies.factory import make_sampler
from rlalign.types import Sampling


def ours(policy: Any, contexts: list[list[int]], limits: list[int], seed: int) -> Any:
    """Sample with our sampler."""
    policy.begin_rollout()
    return policy.bench_sampler.sample(
        contexts,
        max_new=limits,
        stop_ids=frozenset(),
        sampling=Sampling(),
        generator=torch.Generator(policy.device).manual_seed(seed),
    )


def generated(lm: Any, contexts: list[list[int]], limits: list[int], seed: int) -> torch.Tensor:
    """Sample with transformers.generate; return the log-prob of each token from the logits that it returns."""
    from transformers import StoppingCriteriaList

    longest = max(map(len, contexts))
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, context in enumerate(contexts):
        ids[i, longest - len(context) :] = torch.tensor(context)
        mask[i, longest - len(context) :] = 1
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    limit = torch.tensor(limits, device=lm.device)

    def at_limit(sequences: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return limit <= sequences.shape[1] - longest

    torch.manual_seed(seed)
    out = lm.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        max_new_tokens=max(limits),
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([at_limit]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = out.sequences[:, longest:]
    logprobs = [z.float().log_softmax(-1).gather(1, tokens[:, t : t + 1]) for t, z in enumerate(out.logits)]
    return torch.cat(logprobs, dim=1)


def seconds(run: Any, device: str) -> tuple[float, float]:
    """Return wall-clock and processor seconds; other work on the machine has little effect on the latter."""
    wall = clock(device)
    cpu = clock(device, "cpu")
    run()
    return clock(device) - wall, clock(device, "cpu") - cpu


@torch.no_grad()
def cell(size: str, dtype: str, lengths: Any, *, lora_r: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure one row of the table."""
    policy = shapes.policy(size, lora_r=lora_r, dtype=dtype, device=device)
    policy.bench_sampler = make_sampler("decode", policy)
    lm = shapes.model(size).to(device=device, dtype=getattr(torch, dtype))
    vocab = policy.tokenizer.vocab_size
    contexts = [p for p in shapes.prompts(vocab) for _ in range(shapes.GROUP)]
    limits = shapes.limits(lengths)
    sides = {
        "rlalign": lambda seed: ours(policy, contexts, limits, seed),
        "generate": lambda seed: generated(lm, contexts, limits, seed),
    }
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    ours(policy, contexts, [2] * len(limits), 0)
    generated(lm, contexts, [2] * len(limits), 0)
    if device.startswith("cuda"):
        ours(policy, contexts, limits, 0)  # captures the CUDA graphs, which later rollouts use again
    for i in range(repeats):
        for name, side in sides.items():
            gc.collect()
            for times, t in zip((wall, cpu), seconds(lambda side=side, i=i: side(i), device), strict=True):
                times[name].append(t)
    tokens = sum(limits)
    return {
        "size": size,
        "dtype": dtype,
        "lengths": lengths,
        "lora_r": lora_r,
        "device": device,
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "tokens_per_s": {name: round(tokens / statistics.median(ts)) for name, ts in wall.items()},
        "wall": ratios(wall),
        "cpu": ratios(cpu),
    }


def ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return median, minimum and maximum of generate / rlalign over the pairs of runs, and the seconds."""
    pairs = [g / o for g, o in zip(times["generate"], times["rlalign"], strict=True)]
    spread = [round(f(pairs), 2) for f in (statistics.median, min, max)]
    return {"ratio": spread, "seconds": {name: [round(t, 4) for t in ts] for name, ts in times.items()}}


def main() -> None:
    parser = shapes.parser(__doc__)
    parser.add_argument("--lora-r", type=int, default=0, help="LoRA rank on our side; generate runs without adapters")
    args = parser.parse_args()
    head = f"{'size':8} {'dtype':9} {'lengths':8} {'rlalign':>9} {'generate':>9} tokens/s"
    print(f"{head}   wall ratio            cpu ratio")
    for size, dtype, lengths in shapes.cells(args):
        c = cell(size, dtype, lengths, lora_r=args.lora_r, device=args.device, repeats=args.repeats)
        merge("rollout", [c], key=("size", "dtype", "lengths", "lora_r", "device"))
        speed = c["tokens_per_s"]
        columns = []
        for kind in ("wall", "cpu"):
            middle, low, high = c[kind]["ratio"]
            columns.append(f"{middle:5.2f} ({low:.2f} to {high:.2f})")
        line = f"{size:8} {dtype:9} {lengths:8} {speed['rlalign']:9} {speed['generate']:9}"
        print(f"{line}             {'   '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()

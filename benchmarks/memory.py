"""Peak memory of scoring and its gradient at a large vocabulary: fused head against log-softmax of all logits.

    python benchmarks/memory.py [--device cpu] [--rows 880 1024] [--width 128] [--vocab 151936]

Each variant runs in a process of its own. On a CPU the script measures the growth of the peak resident set, on CUDA
the peak of the allocator. Both include the weights and their gradient. At this vocabulary 880 rows are just below the
limit up to which the head saves probabilities for the backward pass; 1,024 rows are above it, and the head computes
them again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from typing import Any

VARIANTS = ("fused", "log_softmax")
DTYPES = ("float32", "bfloat16")


def measure(variant: str, dtype: str, device: str, rows: int, width: int, vocab: int) -> dict[str, float]:
    """Return the peak memory in MiB above the initial memory, and the seconds, of one forward and backward pass."""
    import torch

    from rlalign.policies.scoring.fused_logprobs import fused_logprobs
    from rlalign.types import Sampling

    torch_dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).to(device, torch_dtype).requires_grad_()
    weight = (0.05 * torch.randn(vocab, width, generator=generator)).to(device, torch_dtype).requires_grad_()
    targets = torch.randint(vocab, (rows,), generator=generator).to(device)
    # a first matrix product loads libraries, whose memory is not counted
    (torch.randn(64, 64, device=device) @ torch.randn(64, 64, device=device)).sum().item()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak(device) if device == "cpu" else torch.cuda.memory_allocated() / 2**20
    start = time.perf_counter()
    if variant == "fused":
        logprobs, _ = fused_logprobs(hidden, weight, None, targets, 1.0, Sampling(), False)
    else:
        logits = (hidden @ weight.t()).float()
        logprobs = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    logprobs.sum().backward()  # type: ignore[no-untyped-call]  # untyped in torch
    after = peak(device)
    return {"mib": after - before, "seconds": time.perf_counter() - start}


def peak(device: str) -> float:
    """Return the peak memory so far, in MiB."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KiB on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[880, 1024])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "DTYPE"), help="measure one variant in this process")
    args = parser.parse_args()
    shape = {"width": args.width, "vocab": args.vocab}
    if args.one:
        print(json.dumps(measure(*args.one, args.device, rows=args.rows[0], **shape)))
        return
    from machine import write
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"width {args.width}, vocabulary {args.vocab}")
    for name in ("dtype", "rows", "fused MiB", "log-softmax MiB", "share", "fused s", "log-softmax s"):
        table.add_column(name, justify="right")
    results: list[dict[str, Any]] = []
    for dtype, rows in itertools.product(DTYPES, args.rows):
        cells = {v: _in_subprocess(v, dtype, args.device, {"rows": rows, **shape}) for v in VARIANTS}
        fused, plain = (cells[v] for v in VARIANTS)
        share = fused["mib"] / plain["mib"]
        results.append({"dtype": dtype, "rows": rows, **cells, "share": round(share, 3)})
        table.add_row(
            dtype, str(rows), f"{fused['mib']:.0f}", f"{plain['mib']:.0f}", f"{share:.2f}",
            f"{fused['seconds']:.2f}", f"{plain['seconds']:.2f}",
        )  # fmt: skip
    Console().print(table)
    print(write("memory", {**shape, "device": args.device, "cells": results}))


def _in_subprocess(variant: str, dtype: str, device: str, shape: dict[str, int]) -> dict[str, float]:
    """Measure one variant in a process of its own: the peak of a process never falls again."""
    command = [sys.executable, __file__, "--one", variant, dtype, "--device", device]
    for name, value in shape.items():
        command += [f"--{name}", str(value)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]  # of json


if __name__ == "__main__":
    main()

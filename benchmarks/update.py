"""Updates from given completions: this library against TRL's own update at its best micro-batch.

    python benchmarks/update.py [--sizes small mid smollm2] [--lengths equal uneven] [--dtypes float32 bfloat16]
                                [--device cpu] [--repeats 3]

Runs alternate, each side in a process of its own. The script prints medians, ratios and their range. Both sides have
the same completions, advantages, loss (clipped ratio, token mean), clipping and AdamW. The floor is the FLOPs of our
matrix products divided by the machine's rate at them. To make glibc keep freed memory on both sides, set
MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=2147483647 before the command.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import shapes
import torch
import trl_peer
from machine import clock, memory, merge
from pair import Turns, side
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rlalign.config.schema import LearnerConfig
from rlalign.objective import Objective
from rlalign.rollout.collect import Rollout
from rlalign.training.learner import Learner
from rlalign.types import Sampling, Task

LR = 1e-8
"""Small, so that the rollout, which all updates share, remains on-policy."""
CANDIDATES = (8, 16, 64)
"""Micro-batches of TRL to choose from; 64 is the complete batch."""


def completions(vocab: int, lengths: shapes.Lengths) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts (one per row) and completions of the given lengths."""
    generator = torch.Generator().manual_seed(1)
    prompts = repeated_prompts(vocab)
    return prompts, [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in shapes.limits(lengths)]


def repeated_prompts(vocab: int) -> list[list[int]]:
    """Return one prompt per row: each prompt of `shapes` once per sample of its group."""
    prompts = []
    for prompt in shapes.prompts(vocab):
        prompts += [prompt] * shapes.GROUP
    return prompts


def rollout_of(policy: Any, prompts: list[list[int]], completion_ids: list[list[int]]) -> Rollout:
    """Return the rollout of given completions, with the log-probs of the policy as those of the sampler."""
    unscored = rollout_from(prompts, completion_ids, trl_peer.parity(completion_ids), None)
    with torch.no_grad():
        logprobs = policy.score(unscored.tokens, unscored.lengths, unscored.action_mask, Sampling()).logprobs.cpu()
    return replace(unscored, sampler_logprobs=logprobs)


def rollout_from(
    prompts: list[list[int]], completion_ids: list[list[int]], rewards: list[float], logprobs: Tensor | None
) -> Rollout:
    """Return a rollout of prompts and completions with a reward on each last token.

    `logprobs` [N, T] belong to the tokens of the completions; None for zeros.
    """
    rows = [[*p, *c] for p, c in zip(prompts, completion_ids, strict=True)]
    n = len(rows)
    width = max(map(len, rows))
    tokens = torch.zeros(n, width, dtype=torch.int64)
    mask = torch.zeros(n, width, dtype=torch.bool)
    token_rewards = torch.zeros(n, width)
    sampler_logprobs = torch.zeros(n, width)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, len(prompt) : len(row)] = True
        token_rewards[i, len(row) - 1] = rewards[i]
        if logprobs is not None:
            sampler_logprobs[i, len(prompt) : len(row)] = logprobs[i, : len(completion_ids[i])]
    all_rows = torch.ones(n, dtype=torch.bool)
    return Rollout(
        tokens=tokens, lengths=torch.tensor([len(row) for row in rows]), action_mask=mask,
        sampler_logprobs=sampler_logprobs, rewards=token_rewards, valid=all_rows, components={},
        group_ids=torch.arange(n) // shapes.GROUP, terminated=~all_rows, truncated=all_rows,
        tasks=[Task("")] * n, prompts=[""] * n, completions=[""] * n, messages=[[]] * n, extra=[{}] * n,
    )  # fmt: skip


def learner_of(policy: Any, **settings: Any) -> Learner:
    """Return a learner with TRL's default loss."""
    objective = Objective(baseline="group_mean", scale="group_std", ratio="token", aggregation="token_global")
    return Learner(
        policy, objective, LearnerConfig(lr=LR, max_grad_norm=1.0, **settings), sampling=Sampling(),
        total_updates=1000, generator=torch.Generator().manual_seed(0), max_length=shapes.LIMIT,
    )  # fmt: skip


def timed(work: Callable[[], Any], device: str, kind: str = "wall") -> float:
    """Return the seconds of one call."""
    start = clock(device, kind)
    work()
    return clock(device, kind) - start


def peer(
    size: str,
    dtype: str,
    device: str,
    prompts: list[list[int]],
    completion_ids: list[list[int]],
    advantages: Tensor,
    micro_batch: int,
) -> trl_peer.Update:
    """Return TRL's update of the completions."""
    lm = shapes.model(size).to(device)
    bf16 = dtype == "bfloat16"
    return trl_peer.Update(
        lm, prompts, completion_ids, advantages, micro_batch=micro_batch, bf16=bf16, device=device, lr=LR
    )


def ours(turns: Turns, size: str, lengths: shapes.Lengths, dtype: str, device: str, micro_batch: int) -> None:
    """Serve turns of our side."""
    policy = shapes.policy(size, dtype=dtype, device=device)
    prompts, completion_ids = completions(policy.tokenizer.vocab_size, lengths)
    learner = learner_of(policy, micro_batch=micro_batch)
    rollout = rollout_of(policy, prompts, completion_ids)

    def update(_: None) -> None:
        learner.update(learner.prepare(rollout))

    turns.serve(update)


def theirs(
    turns: Turns,
    size: str,
    lengths: shapes.Lengths,
    dtype: str,
    device: str,
    advantages: list[float],
    candidates: Sequence[int],
) -> None:
    """Serve turns of TRL's side; a request is a micro-batch."""
    prompts, completion_ids = completions(shapes.config(size).vocab_size, lengths)
    updates = {m: peer(size, dtype, device, prompts, completion_ids, torch.tensor(advantages), m) for m in candidates}
    turns.serve(lambda micro_batch: updates[micro_batch]())


def cell(
    size: str,
    lengths: shapes.Lengths,
    dtype: str,
    device: str,
    repeats: int,
    micro_batch: int,
    kind: str,
    candidates: Sequence[int],
) -> dict[str, Any]:
    """Measure one row of the table."""
    advantages, precomputed = prepare(size, lengths, dtype, device, kind, max(candidates))
    gc.collect()  # the processes of the sides need the memory
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    setting = {"device": device, "kind": kind}
    with (
        side(ours, size, lengths, dtype, device, micro_batch, **setting) as own,
        side(theirs, size, lengths, dtype, device, advantages, candidates, **setting) as trl,
    ):
        own()
        for m in candidates:
            trl(m)
        first = {m: trl(m)[0] for m in candidates}
        best = min(first, key=lambda m: first[m])
        runs: dict[str, list[float]] = {"ours": [], "best": [], "whole": [first[max(candidates)]]}
        for _ in range(repeats):
            runs["ours"].append(own()[0])
            runs["best"].append(trl(best)[0])
    ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(runs["ours"], runs["best"], strict=True)]
    median = {name: statistics.median(values) for name, values in runs.items()}
    return {
        "size": size,
        "lengths": lengths,
        "dtype": dtype,
        "device": device,
        "clock": kind,
        "memory": memory(),
        "threads": torch.get_num_threads(),
        "tokens": sum(shapes.limits(lengths)),
        "ours_s": round(median["ours"], 4),
        "trl_s": round(median["best"], 4),
        "trl_micro_batch": best,
        "trl_most_at_once_s": round(median["whole"], 4),  # at the largest of the candidates
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        **precomputed,
        "runs": {name: [round(v, 4) for v in values] for name, values in runs.items()},
    }


def prepare(
    size: str, lengths: shapes.Lengths, dtype: str, device: str, kind: str, micro_batch: int
) -> tuple[list[float], dict[str, float]]:
    """Return the advantages of the completions, for both sides, and measurements that need one process.

    These are the distance between the gradients of both sides, the FLOPs of our matrix products, and the least seconds
    that these take.
    """
    policy = shapes.policy(size, dtype=dtype, device=device)
    prompts, completion_ids = completions(policy.tokenizer.vocab_size, lengths)
    learner = learner_of(policy)
    rollout = rollout_of(policy, prompts, completion_ids)
    token_advantages = learner.prepare(rollout).batch.advantages
    assert token_advantages is not None
    # TRL takes one advantage per row: that of the last token
    advantages = token_advantages.cpu().gather(1, rollout.lengths[:, None] - 1).squeeze(1)
    trl = peer(size, dtype, device, prompts, completion_ids, advantages, micro_batch)
    flops = matmul_flops(policy, prompts, completion_ids)
    return advantages.tolist(), {
        "gradient_difference": gradient_difference(learner, rollout, trl),
        "gflop": round(flops / 1e9, 1),
        "floor_s": round(flops / flops_per_second(policy, device, kind), 4),
    }


def gradient_difference(learner: Learner, rollout: Rollout, theirs: trl_peer.Update) -> float:
    """Return |our gradient - TRL's| / |TRL's|, both at the initial weights."""
    buffer = learner.prepare(rollout)
    learner.accumulate_gradient(buffer, buffer.plan[0])
    theirs.gradient()
    own = dict(learner.policy.lm.named_parameters())
    pairs = [(own[n].grad, p.grad) for n, p in theirs.model.named_parameters() if p.grad is not None]
    squared_distance = sum(float((a - b).float().square().sum()) for a, b in pairs if a is not None)
    squared_norm = sum(float(b.float().square().sum()) for _, b in pairs)
    learner.optimizer.zero_grad(set_to_none=True)
    theirs.trainer.optimizer.zero_grad(set_to_none=True)
    return float(f"{(squared_distance / squared_norm) ** 0.5:.1e}")


def matmul_flops(policy: Any, prompts: list[list[int]], completion_ids: list[list[int]]) -> float:
    """Return the FLOPs of the matrix products with weights.

    There are three products (forward, and two gradients) of two FLOPs for each weight and token. Prompts count once per
    group, the head at actions only.
    """
    head = policy.lm.get_output_embeddings().weight.numel()
    embedding = policy.lm.get_input_embeddings().weight.numel()
    tied = policy.lm.get_output_embeddings().weight is policy.lm.get_input_embeddings().weight
    layers = sum(p.numel() for p in policy.lm.parameters() if p.ndim == 2) - embedding - (0 if tied else head)
    scored = sum(map(len, completion_ids))
    # the last token of a completion predicts nothing and is not read
    read = scored - len(completion_ids) + sum(map(len, prompts[:: shapes.GROUP]))
    return 6.0 * (layers * read + head * scored)


def flops_per_second(policy: Any, device: str, kind: str) -> float:
    """Measure the FLOP/s of the matrix products of the model's widest layer, forward and backward."""
    weight = next(m for n, m in policy.lm.named_modules() if n.endswith("gate_proj")).weight
    dtype = policy.compute_dtype
    x, w = torch.randn(2048, weight.shape[1]), torch.randn(weight.shape)
    g = torch.randn(2048, weight.shape[0])
    x, w, g = (t.to(device, dtype) for t in (x, w, g))

    def three_products() -> None:
        _ = x @ w.t(), g @ w, g.t() @ x

    for _ in range(2):
        three_products()
    return 6.0 * 2048 * weight.numel() / min(timed(three_products, device, kind) for _ in range(5))


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    table = Table(title="update: TRL's time / ours")
    for name in (
        "size",
        "lengths",
        "dtype",
        "ours s",
        "TRL s (micro-batch)",
        "TRL s (largest)",
        "ratio",
        "floor s",
        "|Δg|/|g|",
    ):
        table.add_column(name, justify="right")
    for r in rows:
        low, high = r["ratio_range"]
        table.add_row(
            r["size"], r["lengths"], r["dtype"], f"{r['ours_s']:.3f}", f"{r['trl_s']:.3f} ({r['trl_micro_batch']})",
            f"{r['trl_most_at_once_s']:.3f}", f"{r['ratio']:.2f} [{low:.2f}, {high:.2f}]", f"{r['floor_s']:.3f}",
            f"{r['gradient_difference']:.0e}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = shapes.parser(__doc__)
    parser.add_argument("--micro-batch", type=int, default=0, help="our micro-batch; 0: the learner chooses")
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES, help="micro-batches of TRL to try")
    parser.add_argument("--output", default="update", help="name of the file of results")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for a shared machine")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size, dtype, lengths in shapes.cells(args):
        rows.append(
            cell(size, lengths, dtype, args.device, args.repeats, args.micro_batch, args.clock, args.candidates)
        )
        merge(args.output, rows[-1:], key=("size", "lengths", "dtype", "device", "clock", "memory"))
    Console(width=140).print(table_of(rows))


if __name__ == "__main__":
    main()

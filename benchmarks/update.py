"""The update alone, from given completions to a moved model: ours against TRL's own path at its best micro-batch.

    python benchmarks/update.py [--sizes small mid smollm2] [--lengths equal uneven] [--dtypes float32 bfloat16]
                                [--device cpu] [--repeats 3]

Alternating runs, each side in a process of its own; medians, ratios and their range. Both take the same completions,
advantages, loss (clipped ratio, token mean), clipping and AdamW. The floor is the FLOPs of our products over the
machine's rate at them. Memory that glibc keeps for both: MALLOC_TRIM_THRESHOLD_=2147483647
MALLOC_MMAP_THRESHOLD_=2147483647 before the command.
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
"""Small, or the rollout that is learnt from again and again would not be the policy's own any more."""
CANDIDATES = (8, 16, 64)
"""Micro-batches that TRL may choose from; 64 is all at once."""


def completions(vocab: int, lengths: shapes.Lengths) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts (one per row) and completions of the lengths asked for."""
    generator = torch.Generator().manual_seed(1)
    prompts = [p for p in shapes.prompts(vocab) for _ in range(shapes.GROUP)]
    return prompts, [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in shapes.limits(lengths)]


def rollout_of(policy: Any, prompts: list[list[int]], said: list[list[int]]) -> Rollout:
    """The rollout that these completions would have been, drawn from the policy as it is."""
    bare = rollout_from(prompts, said, trl_peer.parity(said), None)
    with torch.no_grad():
        drawn = policy.score(bare.tokens, bare.lengths, bare.action_mask, Sampling()).logprobs.cpu()
    return replace(bare, sampler_logprobs=drawn)


def rollout_from(
    prompts: list[list[int]], said: list[list[int]], rewards: list[float], logprobs: Tensor | None
) -> Rollout:
    """Rows of prompt and completion, a reward on each last token; logprobs [N, T] of the completions' tokens."""
    rows = [[*p, *c] for p, c in zip(prompts, said, strict=True)]
    n, width = len(rows), max(map(len, rows))
    tokens, mask = torch.zeros(n, width, dtype=torch.int64), torch.zeros(n, width, dtype=torch.bool)
    reward, drawn = torch.zeros(n, width), torch.zeros(n, width)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, len(prompt) : len(row)] = True
        reward[i, len(row) - 1] = rewards[i]
        if logprobs is not None:
            drawn[i, len(prompt) : len(row)] = logprobs[i, : len(said[i])]
    yes = torch.ones(n, dtype=torch.bool)
    return Rollout(
        tokens=tokens, lengths=torch.tensor([len(row) for row in rows]), action_mask=mask, sampler_logprobs=drawn,
        rewards=reward, valid=yes, components={}, group_ids=torch.arange(n) // shapes.GROUP, terminated=~yes,
        truncated=yes, tasks=[Task("")] * n, prompts=[""] * n, completions=[""] * n,
    )  # fmt: skip


def learner_of(policy: Any, **settings: Any) -> Learner:
    """A learner of TRL's default loss."""
    objective = Objective(baseline="group_mean", scale="group_std", ratio="token", aggregation="token_global")
    return Learner(
        policy, objective, LearnerConfig(lr=LR, max_grad_norm=1.0, **settings), sampling=Sampling(),
        total_updates=1000, generator=torch.Generator().manual_seed(0), max_length=shapes.LIMIT,
    )  # fmt: skip


def timed(work: Callable[[], Any], device: str, kind: str = "wall") -> float:
    """Seconds of one call."""
    began = clock(device, kind)
    work()
    return clock(device, kind) - began


def peer(
    size: str,
    dtype: str,
    device: str,
    prompts: list[list[int]],
    said: list[list[int]],
    advantages: Tensor,
    micro_batch: int,
) -> trl_peer.Update:
    """TRL's update of these completions."""
    lm, bf16 = shapes.model(size).to(device), dtype == "bfloat16"
    return trl_peer.Update(lm, prompts, said, advantages, micro_batch=micro_batch, bf16=bf16, device=device, lr=LR)


def ours(turns: Turns, size: str, lengths: shapes.Lengths, dtype: str, device: str, micro_batch: int) -> None:
    """Our side."""
    policy = shapes.policy(size, dtype=dtype, device=device)
    prompts, said = completions(policy.tokenizer.vocab_size, lengths)
    learner, rollout = learner_of(policy, micro_batch=micro_batch), rollout_of(policy, prompts, said)

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
    """TRL's side; a turn asks for a micro-batch."""
    prompts, said = completions(shapes.config(size).vocab_size, lengths)
    updates = {m: peer(size, dtype, device, prompts, said, torch.tensor(advantages), m) for m in candidates}
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
    """One row of the table."""
    given, told = before(size, lengths, dtype, device, kind, max(candidates))
    gc.collect()  # the sides need the memory
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    setting = {"device": device, "kind": kind}
    with (
        side(ours, size, lengths, dtype, device, micro_batch, **setting) as own,
        side(theirs, size, lengths, dtype, device, given, candidates, **setting) as trl,
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
    ratios = [b / a for a, b in zip(runs["ours"], runs["best"], strict=True)]
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
        **told,
        "runs": {name: [round(v, 4) for v in values] for name, values in runs.items()},
    }


def before(
    size: str, lengths: shapes.Lengths, dtype: str, device: str, kind: str, micro_batch: int
) -> tuple[list[float], dict[str, float]]:
    """Our advantages of the completions, for TRL too; how far the gradients of both are from each other, the FLOPs of
    our products, and the seconds that these take at least."""
    policy = shapes.policy(size, dtype=dtype, device=device)
    prompts, said = completions(policy.tokenizer.vocab_size, lengths)
    learner, rollout = learner_of(policy), rollout_of(policy, prompts, said)
    advantages = learner.prepare(rollout).batch.advantages
    assert advantages is not None
    given = advantages.cpu().gather(1, rollout.lengths[:, None] - 1).squeeze(1)
    trl = peer(size, dtype, device, prompts, said, given, micro_batch)
    flops = products(policy, prompts, said)
    return given.tolist(), {
        "gradient_difference": difference(learner, rollout, trl),
        "gflop": round(flops / 1e9, 1),
        "floor_s": round(flops / rate(policy, device, kind), 4),
    }


def difference(learner: Learner, rollout: Rollout, theirs: trl_peer.Update) -> float:
    """|our gradient - TRL's| / |TRL's|, both at the initial weights."""
    buffer = learner.prepare(rollout)
    learner.accumulate_gradient(buffer, buffer.plan[0])
    theirs.gradient()
    own = dict(learner.policy.lm.named_parameters())
    pairs = [(own[n].grad, p.grad) for n, p in theirs.model.named_parameters() if p.grad is not None]
    distance = sum(float((a - b).float().square().sum()) for a, b in pairs if a is not None)
    size = sum(float(b.float().square().sum()) for _, b in pairs)
    learner.optimizer.zero_grad(set_to_none=True)
    theirs.trainer.optimizer.zero_grad(set_to_none=True)
    return float(f"{(distance / size) ** 0.5:.1e}")


def products(policy: Any, prompts: list[list[int]], said: list[list[int]]) -> float:
    """FLOPs of the products with weights, three for each weight and token; prompts once a group, head at actions."""
    head = policy.lm.get_output_embeddings().weight.numel()
    embedding = policy.lm.get_input_embeddings().weight.numel()
    tied = policy.lm.get_output_embeddings().weight is policy.lm.get_input_embeddings().weight
    layers = sum(p.numel() for p in policy.lm.parameters() if p.ndim == 2) - embedding - (0 if tied else head)
    scored = sum(map(len, said))
    read = scored - len(said) + sum(map(len, prompts[:: shapes.GROUP]))
    return 6.0 * (layers * read + head * scored)


def rate(policy: Any, device: str, kind: str) -> float:
    """FLOP/s of the products of this model's widest layer, forward and backward, as measured now."""
    weight = next(m for n, m in policy.lm.named_modules() if n.endswith("gate_proj")).weight
    dtype = policy.compute_dtype
    x, w = torch.randn(2048, weight.shape[1]), torch.randn(weight.shape)
    g = torch.randn(2048, weight.shape[0])
    x, w, g = (t.to(device, dtype) for t in (x, w, g))

    def three() -> None:
        _ = x @ w.t(), g @ w, g.t() @ x

    for _ in range(2):
        three()
    return 6.0 * 2048 * weight.numel() / min(timed(three, device, kind) for _ in range(5))


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table."""
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
    parser.add_argument("--micro-batch", type=int, default=0, help="ours; 0: the learner's own choice")
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES, help="micro-batches of TRL to try")
    parser.add_argument("--output", default="update")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for a machine that is shared")
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

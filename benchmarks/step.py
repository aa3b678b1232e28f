"""Complete training steps of this library against those of TRL's GRPOTrainer, tuned, at its best micro-batch.

    python benchmarks/step.py [--sizes small mid] [--lengths equal uneven] [--dtypes float32 bfloat16] [--repeats 3]

Both sides have the same shapes of model, prompts, samples and tokens, a reward without cost, and the same loss,
clipping and AdamW. Each side runs in a process of its own. A turn of ours (steps for at least a second) alternates with
one step of TRL's. Lengths are forced: TRL's rows end with EOS at their limit, each of our rows has its own limit. Our
step consists of sampler, reward, advantages and update. Our environment is left out, as is TRL's dataset.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import shapes
import torch
import trl_peer
from machine import clock, memory, merge
from pair import Ask, Turns, side
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback
from update import CANDIDATES, LR, learner_of, repeated_prompts, rollout_from

from rlalign.policies.factory import make_sampler
from rlalign.types import Sampling


class Ours:
    """Our step. A call returns the seconds of its parts."""

    def __init__(self, size: str, lengths: shapes.Lengths, dtype: str, device: str, kind: str) -> None:
        self.policy = shapes.policy(size, dtype=dtype, device=device)
        self.learner = learner_of(self.policy)
        self._now = partial(clock, device, kind)
        self.sampler = make_sampler("decode", self.policy)
        self.generator = torch.Generator(device).manual_seed(0)
        self.prompts = repeated_prompts(self.policy.tokenizer.vocab_size)
        self.limits = shapes.limits(lengths)

    def __call__(self) -> dict[str, float]:
        """Run one step."""
        start = self._now()
        self.policy.begin_rollout()
        samples = self.sampler.sample(
            self.prompts, max_new=self.limits, stop_ids=frozenset(), sampling=Sampling(), generator=self.generator
        )
        completion_ids = [row[:n] for row, n in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
        rollout = rollout_from(self.prompts, completion_ids, trl_peer.parity(completion_ids), samples.logprobs)
        sampled = self._now()
        self.learner.update(self.learner.prepare(rollout))
        return {"rollout": sampled - start, "update": self._now() - sampled}


class Turn(TrainerCallback):
    """Callback of TRL that makes each of its steps a turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the turn."""
        self.turns.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report the turn's time."""
        self.turns.end()


def ours(turns: Turns, size: str, lengths: shapes.Lengths, dtype: str, device: str, kind: str) -> None:
    """Serve turns of our side."""
    step = Ours(size, lengths, dtype, device, kind)
    turns.serve(lambda _: step())


def theirs(
    turns: Turns, size: str, lengths: shapes.Lengths, dtype: str, device: str, micro_batch: int, steps: int
) -> None:
    """Serve turns of TRL's side."""
    lm = shapes.model(size).to(device)
    trl_peer.force_lengths(lm, shapes.limits(lengths))
    bf16 = dtype == "bfloat16"
    trainer = trl_peer.trainer(
        lm, micro_batch=micro_batch, bf16=bf16, device=device, lr=LR, steps=steps, callbacks=[Turn(turns)]
    )
    trainer.train()


def cell(
    size: str, lengths: shapes.Lengths, dtype: str, device: str, repeats: int, kind: str, candidates: Sequence[int]
) -> dict[str, Any]:
    """Measure one row of the table."""
    setting = {"device": device, "kind": kind}

    def trl(micro_batch: int, steps: int) -> AbstractContextManager[Ask]:
        # one step more than the turns: the work of TRL at the end of training would overlap with our last turn
        return side(theirs, size, lengths, dtype, device, micro_batch, steps + 1, **setting)

    best = candidates[0]
    seconds_of: dict[int, float] = {}
    for m in candidates if len(candidates) > 1 else ():
        with trl(m, 2) as peer_step:
            peer_step()
            seconds_of[m] = peer_step()[0]
        best = min(seconds_of, key=lambda m: seconds_of[m])
    parts: dict[str, list[float]] = {"rollout": [], "update": []}
    peer: list[float] = []
    with side(ours, size, lengths, dtype, device, kind, **setting) as own_step, trl(best, repeats + 1) as peer_step:
        for i in range(repeats + 1):
            seconds, (_, splits) = peer_step()[0], own_step()
            if i:  # the first is a warm-up
                peer.append(seconds)
                for name, values in parts.items():
                    values.append(statistics.mean(split[name] for split in splits))
    own = [rollout + update for rollout, update in zip(*parts.values(), strict=True)]
    ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(own, peer, strict=True)]
    return {
        "size": size,
        "lengths": lengths,
        "dtype": dtype,
        "device": device,
        "clock": kind,
        "memory": memory(),
        "threads": torch.get_num_threads(),
        "tokens": sum(shapes.limits(lengths)),
        "ours_s": round(statistics.median(own), 4),
        **{f"ours_{name}_s": round(statistics.median(values), 4) for name, values in parts.items()},
        "trl_s": round(statistics.median(peer), 4),
        "trl_micro_batch": best,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "runs": {"ours": [round(v, 4) for v in own], "trl": [round(v, 4) for v in peer]},
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    table = Table(title="complete step: TRL's time / ours")
    for name in ("size", "lengths", "dtype", "ours s", "rollout s", "update s", "TRL s (micro-batch)", "ratio"):
        table.add_column(name, justify="right")
    for r in rows:
        low, high = r["ratio_range"]
        table.add_row(
            r["size"], r["lengths"], r["dtype"], f"{r['ours_s']:.3f}", f"{r['ours_rollout_s']:.3f}",
            f"{r['ours_update_s']:.3f}", f"{r['trl_s']:.3f} ({r['trl_micro_batch']})",
            f"{r['ratio']:.2f} [{low:.2f}, {high:.2f}]",
        )  # fmt: skip
    return table


def main() -> None:
    parser = shapes.parser(__doc__)
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES[:-1], help="TRL's micro-batches to try")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: for a shared machine")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size, dtype, lengths in shapes.cells(args):
        rows.append(cell(size, lengths, dtype, args.device, args.repeats, args.clock, args.candidates))
        merge("step", rows[-1:], key=("size", "lengths", "dtype", "device", "clock", "memory"))
    Console(width=140).print(table_of(rows))


if __name__ == "__main__":
    main()

"""Steps on recorded data: ours against TRL's SFTTrainer and DPOTrainer, time and peak memory.

    python benchmarks/recorded_step.py [--sizes small mid] [--lengths equal uneven] [--dtypes float32] [--repeats 3]

Both sides have the same model, token ids, action masks, loss, clipping and AdamW, and read 64 rows per step: 64
demonstrations, or 32 pairs of two completions of one prompt. Each side runs in a process of its own, and turns
alternate. TRL runs at the best of its micro-batches. For DPO both sides compute the log-probs of the reference: ours in
each step; TRL's before training (`precompute_ref_log_probs`), so that its steps are timed without them. Peak memory is
the largest resident set of the process.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import shapes
import torch
from machine import memory, merge
from pair import Ask, Turns, side
from rich.console import Console
from rich.table import Table
from step import Turn

from rlalign.algorithms import algorithm
from rlalign.config.schema import LearnerConfig
from rlalign.integrations.trl.offline_trainers import dpo_trainer, sft_trainer
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.rollout.recorded import Group, RecordedRollouts, Trajectory
from rlalign.training.learner import Learner
from rlalign.types import Sampling

Kind = Literal["sft", "dpo"]
LR = 1e-6
ROWS = shapes.PROMPTS * shapes.GROUP
CANDIDATES = (8, 16, 64)
"""Micro-batches of TRL to choose from, in rows; 64 is the complete batch."""


def data(kind: Kind, lengths: shapes.Lengths, vocab: int) -> list[Group]:
    """Return the groups of a step: rows of random ids, with the lengths of `shapes`."""
    generator = torch.Generator().manual_seed(1)
    rows: list[Trajectory] = []
    prompts = shapes.prompts(vocab, count=ROWS if kind == "sft" else ROWS // 2)
    for i, limit in enumerate(shapes.limits(lengths)):
        prompt = prompts[i if kind == "sft" else i // 2]
        completion = torch.randint(2, vocab, (limit,), generator=generator).tolist()
        flags = [False] * len(prompt) + [True] * limit
        rows.append(Trajectory([*prompt, *completion], flags, reward=float(kind == "sft" or i % 2 == 0)))
    return [[row] for row in rows] if kind == "sft" else [rows[i : i + 2] for i in range(0, ROWS, 2)]


def peak() -> float:
    """Return the largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(turns: Turns, kind: Kind, size: str, lengths: shapes.Lengths, dtype: str, device: str) -> None:
    """Serve turns of our side."""
    lm = shapes.model(size)
    options = PolicyOptions(adapter=AdapterOptions.lora(0), dtype=dtype)  # type: ignore[arg-type]  # the class checks it
    ids: Any = shapes.Ids(lm.config.vocab_size)
    policy = CausalPolicy(lm, ids, options=options, device=device, keep_reference=kind == "dpo")
    learner = Learner(
        policy, algorithm(kind).objective, LearnerConfig(lr=LR, max_grad_norm=1.0), sampling=Sampling(),
        total_updates=1000, generator=torch.Generator().manual_seed(0), max_length=shapes.LIMIT,
    )  # fmt: skip
    groups = data(kind, lengths, lm.config.vocab_size)
    source = RecordedRollouts(groups, per_step=len(groups), seed=0)

    def step(_: None) -> float:
        drawn = source.draw(0)
        learner.update(learner.prepare(drawn.rollout, recorded=True))
        return peak()

    turns.serve(step)


class PeakTurn(Turn):
    """A turn of TRL that reports the peak memory."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report the turn's time and the peak."""
        self.turns.end([peak()])


def theirs(
    turns: Turns, kind: Kind, size: str, lengths: shapes.Lengths, dtype: str, device: str, micro: int, steps: int
) -> None:
    """Serve turns of TRL's side."""
    lm = shapes.model(size).to(device)
    groups = data(kind, lengths, lm.config.vocab_size)
    per_row = 1 if kind == "sft" else 2
    arguments: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": micro // per_row,
        "gradient_accumulation_steps": ROWS // micro,
        "max_steps": steps,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "max_length": None,
        "gradient_checkpointing": False,
        "bf16": dtype == "bfloat16",
        "use_cpu": device == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }
    if kind == "dpo":
        arguments |= {"beta": 0.1, "precompute_ref_log_probs": True, "precompute_ref_batch_size": micro // per_row}
    order = list(range(len(groups))) * steps
    make = sft_trainer if kind == "sft" else dpo_trainer
    trainer = make(
        lm, groups, order, arguments, processing_class=shapes.hf_tokenizer(lm.config.vocab_size),
        callbacks=[PeakTurn(turns)],
    )  # fmt: skip
    trainer.train()


def cell(
    kind: Kind, size: str, lengths: shapes.Lengths, dtype: str, device: str, repeats: int, candidates: Sequence[int]
) -> dict[str, Any]:
    """Measure one row of the table."""
    setting = {"device": device, "kind": "wall"}

    def trl(micro: int, steps: int) -> AbstractContextManager[Ask]:
        # one step more than the turns: the work of TRL at the end of training would overlap with our last turn
        return side(theirs, kind, size, lengths, dtype, device, micro, steps + 1, **setting)

    seconds_of: dict[int, float] = {}
    for m in candidates:
        with trl(m, 2) as peer_step:
            peer_step()
            seconds_of[m] = peer_step()[0]
    best = min(seconds_of, key=lambda m: seconds_of[m])
    own: list[float] = []
    peer: list[float] = []
    peaks: list[tuple[float, float]] = []
    with side(ours, kind, size, lengths, dtype, device, **setting) as own_step, trl(best, repeats + 1) as peer_step:
        for i in range(repeats + 1):
            (theirs_s, theirs_peak), (ours_s, ours_peak) = peer_step(), own_step()
            peaks.append((max(ours_peak), max(theirs_peak)))
            if i:  # the first is a warm-up
                own.append(ours_s)
                peer.append(theirs_s)
    ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(own, peer, strict=True)]
    return {
        "kind": kind,
        "size": size,
        "lengths": lengths,
        "dtype": dtype,
        "device": device,
        "memory": memory(),
        "threads": torch.get_num_threads(),
        "ours_s": round(statistics.median(own), 4),
        "trl_s": round(statistics.median(peer), 4),
        "trl_micro_batch": best,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "ours_mib": round(peaks[-1][0]),
        "trl_mib": round(peaks[-1][1]),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    table = Table(title="step on recorded data: TRL's time / ours")
    for name in ("kind", "size", "lengths", "dtype", "ours s", "TRL s (micro-batch)", "ratio", "ours MiB", "TRL MiB"):
        table.add_column(name, justify="right")
    for r in rows:
        low, high = r["ratio_range"]
        table.add_row(
            r["kind"], r["size"], r["lengths"], r["dtype"], f"{r['ours_s']:.3f}",
            f"{r['trl_s']:.3f} ({r['trl_micro_batch']})", f"{r['ratio']:.2f} [{low:.2f}, {high:.2f}]",
            str(r["ours_mib"]), str(r["trl_mib"]),
        )  # fmt: skip
    return table


def main() -> None:
    parser = shapes.parser(__doc__)
    parser.set_defaults(dtypes=["float32"])
    parser.add_argument("--kinds", nargs="+", default=["sft", "dpo"], choices=["sft", "dpo"])
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES, help="TRL's micro-batches to try")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in args.kinds:
        for size, dtype, lengths in shapes.cells(args):
            rows.append(cell(kind, size, lengths, dtype, args.device, args.repeats, args.candidates))
            merge("recorded_step", rows[-1:], key=("kind", "size", "lengths", "dtype", "device", "memory"))
    Console(width=140).print(table_of(rows))


if __name__ == "__main__":
    main()

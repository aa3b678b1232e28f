"""Profile of an update: self time of each operation by torch.profiler, summed by the operation's purpose.

python benchmarks/profile_update.py [--sizes small mid] [--lengths equal uneven] [--dtypes float32 bfloat16]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import shapes
import torch
from machine import merge
from torch.profiler import ProfilerActivity, profile
from update import completions, learner_of, rollout_of

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear", "mkldnn::")
ATTENTION = ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")
COPIES = (
    "aten::copy_", "aten::index", "aten::scatter", "aten::gather", "aten::cat", "aten::fill_", "aten::_index_put",
    "aten::embedding", "aten::constant_pad",
)  # fmt: skip
ELEMENTS = (
    "aten::mul", "aten::add", "aten::sub", "aten::neg", "aten::silu", "aten::_softmax", "aten::softmax", "aten::amax",
    "aten::sum", "aten::exp", "aten::log", "aten::linalg_vector_norm", "aten::rsqrt", "aten::square", "aten::where",
    "aten::cos", "aten::sin", "aten::clamp", "aten::div", "aten::max", "aten::min", "aten::mean",
)  # fmt: skip
KINDS = (
    "layers' products",
    "head's products",
    "attention's products",
    "element by element",
    "copies",
    "optimizer",
    "rest",
)


def kind_of(name: str, sizes: Sequence[Any], vocab: int) -> str:
    """Return the member of `KINDS` of an operation; a matrix product over the vocabulary belongs to the head."""
    if name.startswith(PRODUCTS):
        wide = any(vocab in size for size in sizes if isinstance(size, list))
        return "head's products" if wide else "layers' products"
    if name.startswith(ATTENTION):
        return "attention's products"
    if name.startswith(("aten::_fused_adamw", "aten::_foreach")):
        return "optimizer"
    if name.startswith(COPIES):
        return "copies"
    return "element by element" if name.startswith(ELEMENTS) else "rest"


def shares(size: str, lengths: shapes.Lengths, dtype: str, repeats: int) -> dict[str, float]:
    """Return the share of each kind in the time of several updates, after a warm-up."""
    policy = shapes.policy(size, dtype=dtype)
    vocab = policy.tokenizer.vocab_size
    prompts, completion_ids = completions(vocab, lengths)
    learner = learner_of(policy)
    rollout = rollout_of(policy, prompts, completion_ids)
    learner.update(learner.prepare(rollout))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(repeats):
            learner.update(learner.prepare(rollout))
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages(group_by_input_shape=True):
        seconds[kind_of(event.key, event.input_shapes, vocab)] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {kind: round(s / total, 3) for kind, s in seconds.items()}


def main() -> None:
    args = shapes.parser(__doc__).parse_args()
    for size, dtype, lengths in shapes.cells(args):
        cell = {"size": size, "dtype": dtype, "lengths": lengths, "threads": torch.get_num_threads()}
        cell["shares"] = shares(size, lengths, dtype, args.repeats)
        merge("profile_update", [cell], key=("size", "dtype", "lengths"))
        print(size, dtype, lengths, cell["shares"], flush=True)


if __name__ == "__main__":
    main()

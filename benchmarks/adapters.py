"""Each kind of adapter over each kind of base: what must be equal, on tiny models; and what it costs, on SmolLM2.

    python benchmarks/adapters.py                          # all cells of tiny models, some 10 minutes
    python benchmarks/adapters.py --kinds dora --bases nf4 # some of them; the results of the others stay
    python benchmarks/adapters.py --smollm2                # the table: a short run of SmolLM2 per kind and base
    python benchmarks/adapters.py --draw                   # only writes the tables of docs/results/adapters.md

A tiny random model of each family becomes a policy. Its log-probs are compared where they must be equal: initial policy
and reference, sampled and scored, scores of the fast paths and plain forward passes of peft's model of each row alone,
the policy and what peft, transformers and this library load from its saved folder, and a policy whose weights a
checkpoint restores. A step of gradient ascent must change each trained tensor and no other. Cells that are stored are
not measured again with --smollm2, so that an interrupted command continues.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import torch
from adapter_costs import smollm2_in_process
from machine import RESULTS, described, merge
from pages import DOCS, Parts, fill, table
from torch import Tensor

from rlalign.policies.factory import load, make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.quantized_base import quantize_base
from rlalign.policies.weight_dtype import float32_copy
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling

KINDS = ("lora", "rslora", "dora", "adalora", "ia3", "prefix", "prompt")
BASES = ("none", "nf4", "int8")
DTYPES = ("float32", "bfloat16")
FAMILIES = ("llama", "qwen2", "gpt2")
TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789")
CONTEXTS = [[3, 9, 4, 5, 11, 30]] * 3 + [[6]] * 2 + [[8, 22, 13, 21, 9, 2, 17, 5, 33, 13, 7]] + [[12, 30, 3]]
"""Ragged prompts, some of them in groups."""
LIMITS = {
    ("start", "float32"): 1e-5,
    ("sampled", "float32"): 5e-5,
    ("plain", "float32"): 5e-5,
    ("resumed", "float32"): 0.0,
    ("loaded", "float32"): 1e-4,
    ("peft", "float32"): 1e-4,
    ("start", "bfloat16"): 0.02,
    ("sampled", "bfloat16"): 0.02,
    ("plain", "bfloat16"): 0.02,
    ("resumed", "bfloat16"): 0.0,
    ("loaded", "bfloat16"): 0.02,
    ("peft", "bfloat16"): 0.02,
}
"""Mean difference in nats per token that counts as equal. bfloat16 rounds a log-prob by about 0.005."""
INT8_OF_TRANSFORMERS = 0.1
"""The same for the adapter over transformers' int8 model, which rounds the inputs of its layers too."""


def measure(family: str, kind: str, dtype: str, base: str) -> dict[str, Any]:
    """Return the mean differences of log-probs, in nats per token, of one cell.

    Args:
        family: of `FAMILIES`.
        kind: of the adapter.
        dtype: float32 or bfloat16.
        base: none, nf4 or int8.
    """
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        # numbers of bfloat16, as checkpoints hold them: codes are then the same from float32 and from bfloat16
        tiny_model(family).bfloat16().float().save_pretrained(folder / "base")
        options = PolicyOptions(adapter=AdapterOptions(kind, tokens=3), dtype=dtype, base=base)  # type: ignore[arg-type]

        def build() -> Any:
            return make_policy(str(folder / "base"), tokenizer=TOKENIZER, options=options, seed=1)

        policy = build()
        sampled, batch = sample(policy)
        start = _mean(score(policy, batch) - policy.reference_logprobs(*batch, Sampling()), batch)
        change(policy)
        sampled, batch = sample(policy)
        scored = score(policy, batch)
        expected = plain(policy.model, batch)
        policy.save_pretrained(folder / "policy")
        again = build()
        again.load_trainable(policy.trainable())
        loaded = load(folder / "policy", tokenizer=TOKENIZER)
        result = {
            "start": start,
            "sampled": _mean(sampled - scored, batch),
            "plain": _mean(expected - scored, batch),
            "resumed": _mean(score(again, batch) - scored, batch),
            "loaded": _mean(score(loaded, batch) - scored, batch),
            "peft": _mean(plain(peft_model(policy, folder, dtype, base), batch) - scored, batch),
            "gradient": gradient_faults(policy, batch),
            "paths": policy.path_summary,
        }
    return {"family": family, "kind": kind, "dtype": dtype, "base": base, **result}


def faults(result: dict[str, Any]) -> list[str]:
    """Return the names of what is not equal in a cell, and the tensors that a step should have changed or not."""
    limits = {name: limit for (name, dtype), limit in LIMITS.items() if dtype == result["dtype"]}
    if result["base"] == "int8":
        limits["peft"] = INT8_OF_TRANSFORMERS
    wrong = [f"{name} {result[name]:.2g}" for name, limit in limits.items() if not result[name] <= limit]
    return [*wrong, *result["gradient"]]


def tiny_model(family: str) -> Any:
    """Return a random model of a family over the tokenizer."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    torch.manual_seed(7)
    ids = {"vocab_size": TOKENIZER.vocab_size, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None}
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(**ids, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.1)  # type: ignore[arg-type]
        )
    shape: dict[str, Any] = {
        **ids,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
        "max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**shape)) if family == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))


def sample(policy: Any) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the log-probs [N, L] of sampled tokens, and the rows as tokens [N, L], lengths [N] and mask [N, L]."""
    policy.begin_rollout()
    samples = make_sampler("decode", policy).sample(
        CONTEXTS,
        max_new=8,
        stop_ids=frozenset({TOKENIZER.eos_id}),
        sampling=Sampling(),
        generator=torch.Generator(policy.device).manual_seed(3),
    )
    lengths = samples.lengths + torch.tensor([len(context) for context in CONTEXTS])
    tokens = torch.zeros(len(CONTEXTS), int(lengths.max()), dtype=torch.int64)
    logprobs = torch.zeros(tokens.shape)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, context in enumerate(CONTEXTS):
        begin, n = len(context), int(samples.lengths[i])
        tokens[i, :begin] = torch.tensor(context)
        tokens[i, begin : begin + n] = samples.tokens[i, :n]
        logprobs[i, begin : begin + n] = samples.logprobs[i, :n]
        mask[i, begin : begin + n] = True
    return logprobs, (tokens, lengths, mask)


@torch.no_grad()
def score(policy: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the scores [N, L] of rows."""
    logprobs: Tensor = policy.score(*batch, Sampling()).logprobs
    return logprobs


@torch.no_grad()
def plain(model: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the log-probs [N, L] by a forward pass of a transformers or peft model for each row alone."""
    tokens, lengths, mask = batch
    scores = torch.zeros(tokens.shape)
    for i, n in enumerate(lengths.tolist()):
        # peft returns the logits of the virtual tokens of a prompt too
        logits = model(input_ids=tokens[i : i + 1, :n]).logits[0, -n:].float()
        scores[i, 1:n] = logits.log_softmax(-1)[:-1].gather(-1, tokens[i, 1:n, None]).squeeze(-1)
    return scores * mask


def change(policy: Any) -> None:
    """Change each trained tensor by random numbers, as training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def gradient_faults(policy: Any, batch: tuple[Tensor, Tensor, Tensor]) -> list[str]:
    """Return the tensors that a step of gradient ascent on the scores changes wrongly, or does not change."""
    trained = policy.trainable()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    policy.score(*batch, Sampling()).logprobs.sum().backward()
    optimizer.step()
    after = dict(policy.named_parameters())
    still = [f"{name} did not change" for name in trained if torch.equal(before[name], after[name])]
    moved = [f"{n} changed" for n, p in after.items() if n not in trained and not torch.equal(before[n], p)]
    return still + moved


def peft_model(policy: Any, folder: Path, dtype: str, base: str) -> Any:
    """Return what peft loads from a saved policy, over transformers' quantized model if the base is quantized."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    adapter = folder / "policy" if policy.virtual is not None else folder / "policy" / "adapter"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    # Over quantized weights IA3 of peft 0.21 returns float32, and bitsandbytes' int8 product float16: the attention and
    # the norms of a model in bfloat16 refuse both
    mixes = base == "int8" or (base == "nf4" and policy.options.adapter.kind == "ia3")
    compute = torch.float32 if mixes else getattr(torch, dtype)
    quantization = None
    if base == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    elif base == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    by_peft = base != "int8" or policy.options.adapter.kind != "dora"  # which peft 0.21 cannot compute on a CPU
    lm = AutoModelForCausalLM.from_pretrained(
        settings["base_model_name_or_path"], dtype=compute, quantization_config=quantization if by_peft else None
    )
    if not by_peft:
        quantize_base(lm.requires_grad_(False), base, [])
        lm = float32_copy(lm)
    return PeftModel.from_pretrained(lm, adapter).eval()


def _mean(difference: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    return float(difference.detach().abs().sum() / batch[2].sum())


# ---- results and page ----


def stored(name: str) -> list[dict[str, Any]]:
    """Return the stored cells of a file of results."""
    path = RESULTS / f"{name}.json"
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
    return cells


def parts() -> Parts:
    """Return the tables of docs/results/adapters.md."""
    texts = {"equal": _equal_table(), "smollm2": _smollm2_table()}
    path = RESULTS / "adapters_smollm2.json"
    machine = json.loads(path.read_text(encoding="utf-8"))["machine"] if path.is_file() else None
    texts["machine"] = f"Machine: {described(machine)}." if machine else ""
    return {DOCS / "results" / "adapters.md": texts}


def _equal_table() -> str:
    """Return the largest differences of each kind and base over families, per dtype."""
    cells = stored("adapters")
    rows = []
    for kind, base in product(KINDS, BASES):
        of = [cell for cell in cells if (cell["kind"], cell["base"]) == (kind, base)]
        if not of:
            continue
        row = [kind, base]
        for names, dtype in product((("start",), ("sampled", "plain"), ("loaded", "peft")), DTYPES):
            values = [cell[name] for cell in of if cell["dtype"] == dtype for name in names]
            row.append(f"{max(values):.0e}" if values else "")
        rows.append(row)
    heads = ["adapter", "base"]
    heads += [f"{what}, {dtype}" for what, dtype in product(("start", "sampled and plain rows", "loaded"), DTYPES)]
    return table(heads, rows)


def _smollm2_table() -> str:
    """Return the costs and rewards of the runs of SmolLM2."""
    rows = []
    for cell in stored("adapters_smollm2"):
        mean, low, high = cell["difference"]
        rows.append(
            [
                cell["kind"],
                cell["base"],
                f"{cell['lr']:g}",
                f"{cell['trained']:,}",
                f"{cell['weights_mib']:.0f}",
                f"{cell['peak_mib']:.0f}",
                f"{cell['processor_seconds_per_step']:.1f}",
                f"{cell['reward_before']:+.3f}",
                f"{cell['reward_after']:+.3f}",
                f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            ]
        )
    heads = ["adapter", "base", "learning rate", "trained parameters", "weights, MiB", "peak memory, MiB"]
    return table([*heads, "processor s per step", "before", "after", "difference, 95 % CI"], rows)


def main() -> None:
    """Measure cells, and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--bases", nargs="*", default=list(BASES))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--smollm2", action="store_true", help="measure runs of SmolLM2 that are not stored yet")
    parser.add_argument("--draw", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    if arguments.smollm2:
        done = {(cell["kind"], cell["base"]) for cell in stored("adapters_smollm2")}
        cells = [("none", "none"), *((k, b) for b in arguments.bases for k in arguments.kinds)]
        for kind, base in cells:
            if (kind, base) not in done:
                start = time.perf_counter()
                merge("adapters_smollm2", [smollm2_in_process(kind, base)], key=("kind", "base"))
                print(kind, base, f"{time.perf_counter() - start:.0f} s", flush=True)
    elif not arguments.draw:
        wrong = 0
        for family, kind, dtype, base in product(
            arguments.families, arguments.kinds, arguments.dtypes, arguments.bases
        ):
            result = measure(family, kind, dtype, base)
            merge("adapters", [result], key=("family", "kind", "dtype", "base"))
            wrong += bool(faults(result))
            print(family, kind, dtype, base, "; ".join(faults(result)) or "equal", flush=True)
        if wrong:
            raise SystemExit(f"{wrong} cells are not equal")
    fill(parts())


if __name__ == "__main__":
    main()

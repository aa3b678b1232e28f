"""Inputs of the speed benchmarks: models of given sizes with random weights, prompts, and lengths of completions.

Speed does not depend on the values of the weights, so that no weights are downloaded. All inputs are drawn from seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

SIZES = ("small", "mid", "smollm2", "0.5b", "1.5b")
LENGTHS = ("equal", "uneven")
PROMPTS, GROUP, LIMIT = 8, 8, 64
SHORTEST, LONGEST = 12, 32
"""Least and largest number of tokens of a prompt."""

Lengths = Literal["equal", "uneven"]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the axes of `cells`."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--sizes", nargs="+", default=["small", "mid"], choices=SIZES)
    result.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=LENGTHS)
    result.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    result.add_argument("--device", default="cpu")
    result.add_argument("--repeats", type=int, default=3)
    return result


def cells(args: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """Yield (size, dtype, lengths) of each cell that the arguments select."""
    return product(args.sizes, args.dtypes, args.lengths)


def config(size: str) -> Any:
    """Return the transformers configuration of a size: Qwen3-shaped (small, mid), SmolLM2-135M, Qwen2.5-0.5B, -1.5B."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    common: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": True}
    match size:
        case "small":
            shape = _shape(4096, width=128, inner=384, layers=4, heads=4, kv_heads=2)
            return Qwen3Config(**shape, **common, head_dim=32)
        case "mid":
            shape = _shape(32768, width=512, inner=1536, layers=8, heads=8, kv_heads=4)
            return Qwen3Config(**shape, **common, head_dim=64)
        case "smollm2":
            return LlamaConfig(**_shape(49152, width=576, inner=1536, layers=30, heads=9, kv_heads=3), **common)
        case "0.5b":
            return Qwen2Config(**_shape(151936, width=896, inner=4864, layers=24, heads=14, kv_heads=2), **common)
        case "1.5b":
            return Qwen2Config(**_shape(151936, width=1536, inner=8960, layers=28, heads=12, kv_heads=2), **common)
    raise SystemExit(f"expected a size, got '{size}'; use one of {', '.join(SIZES)}")


def model(size: str, *, seed: int = 0) -> Any:
    """Return a float32 `...ForCausalLM` of a size on the CPU in eval mode, with weights drawn from the seed."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config(size), dtype=torch.float32).eval()


def prompts(vocab: int, *, count: int = PROMPTS, shortest: int = SHORTEST, longest: int = LONGEST) -> list[list[int]]:
    """Return `count` prompts of `shortest` to `longest` ids, evenly spread; no id is PAD (0) or EOS (1)."""
    import torch

    generator = torch.Generator().manual_seed(count)
    sizes = torch.linspace(shortest, longest, count).round().long()[torch.randperm(count, generator=generator)]
    return [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in sizes.tolist()]


def limits(lengths: Lengths, rows: int = PROMPTS * GROUP, limit: int = LIMIT) -> list[int]:
    """Return the number of tokens of each row: the limit (equal), or 1 to the limit with a mean of a third (uneven).

    An uneven length is 1 + (limit - 1)·u² with u evenly spread over the rows, in a random order.
    """
    import torch

    if lengths == "equal":
        return [limit] * rows
    if lengths != "uneven":
        raise SystemExit(f"expected lengths, got '{lengths}'; use equal or uneven")
    u = torch.linspace(0, 1, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(rows))]
    return (1 + (limit - 1) * u.square()).round().long().tolist()  # type: ignore[no-any-return]  # of torch


class Ids:
    """A tokenizer whose text is the ids, as in `"17 4 250"`, for policies that are only timed."""

    eos_id, pad_id = 1, 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """Return the ids in the text."""
        return [int(word) for word in text.split()]

    def encode_prompt(self, prompt: Any) -> list[int]:
        """Return the ids in the text."""
        return self.encode(prompt)

    def decode(self, ids: Any) -> str:
        """Return the ids as text."""
        return " ".join(map(str, ids))


def hf_tokenizer(vocab_size: int) -> Any:
    """Return the equivalent of `Ids` as a transformers tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {str(i): i for i in range(2, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")


def policy(size: str, *, lora_r: int = 0, dtype: str = "float32", device: str = "cpu", value: str = "none") -> Any:
    """Return a `CausalPolicy` of a size without a reference: full fine-tuning, or LoRA of the given rank."""
    from rlalign.policies.causal import CausalPolicy
    from rlalign.policies.options import AdapterOptions, PolicyOptions

    options = PolicyOptions(adapter=AdapterOptions.lora(lora_r), dtype=dtype, value=value)  # type: ignore[arg-type]  # the class checks it
    lm = model(size)
    ids = Ids(lm.config.vocab_size)
    return CausalPolicy(lm, ids, options=options, device=device, keep_reference=False)


def _shape(vocab: int, *, width: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048,
    }

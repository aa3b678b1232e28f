"""Names, layouts and metadata of the architectures that can be written as GGUF.

A family maps the tensors of transformers to those of llama.cpp. The layouts that differ:

- Llama's query and key rows: transformers pairs rotary dimension i with i + d/2, llama.cpp's `llama` pairs 2i with
  2i + 1. Qwen2 and Qwen3 keep the order of transformers ("NeoX").
- GPT-2 stores its matrices as [in, out] (Conv1D). GGUF has [out, in].
- A head that is tied to the embedding is left out: llama.cpp then reads the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError

_LLAMA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LLAMA_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_GPT2_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_GPT2_TOP = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture of llama.cpp.

    Attributes:
        arch: its name in GGUF.
        block: transformers' name of a module in a layer -> the name in GGUF.
        top: the same outside of the layers.
        layers: prefix of the layers in transformers.
        metadata: configuration -> entries of the header, without the prefix of the architecture.
        check: configuration -> a setting that llama.cpp computes differently, in words; "" without one.
        rotates: query and key rows are reordered.
        transposes: matrices of the layers are stored as [in, out].
    """

    arch: str
    block: Mapping[str, str]
    top: Mapping[str, str]
    layers: str
    metadata: Callable[[Any], dict[str, Any]]
    check: Callable[[Any], str]
    rotates: bool = False
    transposes: bool = False


def find_family(config: Any) -> Family:
    """Return the family of a configuration.

    Raises:
        UserError: the family is not supported, or a setting is one that llama.cpp computes differently.
    """
    name = config.model_type
    if name not in FAMILIES:
        raise UserError(
            f"--format gguf: expected a model of {', '.join(sorted(FAMILIES))}, got {name}; use --format hf, then "
            "convert_hf_to_gguf.py of llama.cpp on that folder"
        )
    family = FAMILIES[name]
    difference = family.check(config)
    if difference:
        raise UserError(
            f"--format gguf: expected a {name} that llama.cpp computes as transformers does, got {difference}; use "
            "--format hf"
        )
    return family


def gguf_tensors(config: Any, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model under their names and in the layout of GGUF.

    Args:
        config: transformers' configuration.
        state: transformers' name -> tensor, in any dtype.

    Raises:
        UserError: a tensor has no place in the family.
    """
    family = find_family(config)
    tied = bool(config.tie_word_embeddings)
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if tied and module == "lm_head":
            continue
        block = re.fullmatch(rf"{re.escape(family.layers)}\.(\d+)\.(.+)", module)
        target = family.block.get(block[2]) if block else family.top.get(module)
        if target is None or kind not in ("weight", "bias"):
            raise UserError(
                f"--format gguf: expected only tensors that {family.arch} of llama.cpp has, got {name}; use --format hf"
            )
        if block and family.rotates and target in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if target == "attn_q" else config.num_key_value_heads
            tensor = interleave_rotary(tensor, heads)
        if block and family.transposes and tensor.dim() == 2:
            tensor = tensor.T
        yield (f"blk.{block[1]}.{target}.{kind}" if block else f"{target}.{kind}"), tensor
    factors = _rope_factors(config) if family.rotates else None
    if factors is not None:
        yield "rope_freqs.weight", factors


def interleave_rotary(tensor: Tensor, heads: int) -> Tensor:
    """Return rows of queries or keys in llama.cpp's order of rotary dimensions: two halves become pairs of neighbors.

    Args:
        tensor: [heads · d, in], or a bias [heads · d].
        heads: number of heads.

    Example:
        >>> interleave_rotary(torch.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    half = tensor.shape[0] // heads // 2
    return tensor.reshape(heads, 2, half, -1).transpose(1, 2).reshape(tensor.shape)


def _rope_factors(config: Any) -> Tensor | None:
    """Return the divisors [d/2] of the rotary frequencies of Llama 3, in float32; None for the default frequencies."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters
    if parameters["rope_type"] == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    d = _head_dim(config)
    plain = parameters["rope_theta"] ** -(torch.arange(0, d, 2).double() / d)
    factors: Tensor = (plain / scaled.double()).float()
    return factors


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _rotary_metadata(config: Any) -> dict[str, Any]:
    d = _head_dim(config)
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": d,
        "attention.value_length": d,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": d,
        "vocab_size": config.vocab_size,
    }


def _gpt2_metadata(config: Any) -> dict[str, Any]:
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        "vocab_size": config.vocab_size,
    }


def _llama_difference(config: Any) -> str:
    kind = config.rope_parameters["rope_type"]
    if kind not in ("default", "llama3"):
        return f"rope_type {kind}"
    return "" if config.hidden_act == "silu" else f"hidden_act {config.hidden_act}"


def _qwen_difference(config: Any) -> str:
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "layers with a sliding window"
    if config.rope_parameters["rope_type"] != "default":
        return f"rope_type {config.rope_parameters['rope_type']}"
    return "" if config.hidden_act == "silu" else f"hidden_act {config.hidden_act}"


def _gpt2_difference(config: Any) -> str:
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        return f"activation_function {config.activation_function}"
    if config.scale_attn_by_inverse_layer_idx:
        return "scale_attn_by_inverse_layer_idx"
    return "" if config.scale_attn_weights else "scale_attn_weights False"


def _rotary(
    arch: str, check: Callable[[Any], str], *, rotates: bool = False, norms: Mapping[str, str] | None = None
) -> Family:
    """Return a family with rotary positions and gated layers, as Llama has them."""
    block = {**_LLAMA_BLOCK, **(norms or {})}
    return Family(arch, block, _LLAMA_TOP, "model.layers", _rotary_metadata, check, rotates=rotates)


FAMILIES: Mapping[str, Family] = {
    "llama": _rotary("llama", _llama_difference, rotates=True),
    "qwen2": _rotary("qwen2", _qwen_difference),
    "qwen3": _rotary(
        "qwen3", _qwen_difference, norms={"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
    ),
    "gpt2": Family("gpt2", _GPT2_BLOCK, _GPT2_TOP, "transformer.h", _gpt2_metadata, _gpt2_difference, transposes=True),
}
"""Model type of transformers -> family."""

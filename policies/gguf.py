"""Conversion of a Llama-shaped GGUF file to a dequantized folder that transformers loads.

transformers can read GGUF itself, but parses the file once for each of configuration, tokenizer and weights (half a
minute for SmolLM2). This module reads it once. It supports the needs of the pinned file: the llama architecture with a
byte-level BPE.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError

_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SPECIAL = 3  # token type CONTROL of GGUF, which special tokens have


def convert(gguf: Path, folder: Path) -> None:
    """Write configuration, tokenizer and bfloat16 safetensors of a GGUF file into a folder.

    Raises:
        UserError: the architecture is not llama.
    """
    from gguf import GGUFReader, dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = GGUFReader(gguf)
    fields = _Fields(reader)
    if fields["general.architecture"] != "llama":
        raise UserError(
            f"'{gguf.name}': expected the architecture llama, got {fields['general.architecture']}; use a folder in "
            "transformers' format"
        )
    heads = fields["llama.attention.head_count"]
    kv_heads = fields["llama.attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=all(t.name != "output.weight" for t in reader.tensors),
    )
    state: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            weight = _unrotate(weight, heads if ".attn_q." in tensor.name else kv_heads)
        state[_hf_name(tensor.name)] = weight.bfloat16()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    with torch.device("meta"):  # no memory for initial weights, which are replaced
        model = LlamaForCausalLM(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    _build_tokenizer(fields).save_pretrained(folder)


class _Fields:
    """Metadata of a GGUF file by key."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        return self._fields[key].contents()


def _hf_name(name: str) -> str:
    """Return transformers' name of a GGUF tensor: blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj.weight."""
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block:
        return f"model.layers.{block[1]}.{_MODULES[block[2]]}.{block[3]}"
    stem, _, kind = name.rpartition(".")
    return f"{_MODULES[stem]}.{kind}"


def _unrotate(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of rotary dimensions: pairs of neighbors become two halves again."""
    half = weight.shape[0] // heads // 2
    return weight.view(heads, half, 2, -1).transpose(1, 2).reshape(weight.shape)


def _build_tokenizer(fields: _Fields) -> Any:
    """Return the byte-level BPE of a GGUF file as a fast transformers tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    splits: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if fields["tokenizer.ggml.pre"] == "smollm":
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(splits)
    core.decoder = decoders.ByteLevel()
    special = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == _SPECIAL]
    core.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in special])
    # transformers' name of each special token, and the key of GGUF
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=core,
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()},
    )

"""A tiny random model of each causal architecture of the installed transformers.

`MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` of transformers lists the architectures. A tiny model has the sizes in `SIZES`, as
far as its configuration has these attributes, and the entries of its family in `OVERRIDES`. Windows and chunks are
shorter than the rows of the tests, so that the rows cross them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

VOCABULARY = 64
WINDOW = 8
"""Tokens of a sliding window, of a chunk of attention and of a state-space model."""
LARGEST = 3_000_000
"""Parameters of a model that still counts as tiny."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "head_dim": 8,
    "rotary_dim": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "is_decoder": True,
    "use_cache": True,
    "sliding_window": WINDOW,
    "block_size": WINDOW,
    # mixtures of experts
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    # multi-head latent attention
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    # linear attention and state-space layers
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 4,
    "chunk_size": 4,
    "state_size": 8,
}
"""Attribute of a configuration -> its value in a tiny model."""

_LATENT: dict[str, Any] = {"num_key_value_heads": 4}  # latent attention has no shared key heads
_LATENT_V3: dict[str, Any] = {**_LATENT, "qk_head_dim": 8, "head_dim": None}
_DELTA: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_GEMMA_N = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": _LATENT_V3,
    "axk2": _LATENT,
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"], **_LATENT_V3},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "data2vec-text": {"pad_token_id": 1},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_top_k": 2},
        "max_seq_len": 128,
    },
    "deepseek_v2": _LATENT,
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4},
    "deepseek_v3": _LATENT_V3,
    "deepseek_v32": _LATENT,
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {**_GEMMA_N, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0], "laurel_rank": 4},
    "gemma4_text": {**_GEMMA_N, "global_head_dim": 8},
    "gemma4_unified_text": {**_GEMMA_N, "global_head_dim": 8},
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": {**_LATENT, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"attention_chunk_size": WINDOW, "num_hidden_layers": 4, "intermediate_size_mlp": 48},
    "longcat_flash": {**_LATENT_V3, "num_layers": 1, "head_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "minicpm3": _LATENT,
    "modernbert-decoder": {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2},
    "prophetnet": {"num_hidden_layers": None, "num_decoder_layers": 2, "num_encoder_layers": 2},
    "qwen3_5_moe_text": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_next": _DELTA,
    "qwen4_exp_text": {
        **_DELTA,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "local"]},
    "roc_bert": {
        "pronunciation_vocab_size": VOCABULARY,
        "shape_vocab_size": VOCABULARY,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "xlm": {"causal": True},
    "xlnet": {"max_position_embeddings": None, "d_inner": 48, "d_head": 8},
    "xlstm": {"v_head_dim": None, "hidden_size": 128, "num_heads": 4, "num_blocks": 2, "chunk_size": 64},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "youtu": _LATENT_V3,
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"],
        "mamba_dt_rank": 4,
        "attention_head_dim": 16,
        "mamba_d_head": None,
    },
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        "num_mem_blocks": 1,
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_d_state": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""Model type -> entries of its configuration besides `SIZES`; None removes an entry of `SIZES`."""


class NotTiny(Exception):
    """No tiny configuration is known for an architecture."""


def model_types() -> list[str]:
    """Return the model types of all causal language models of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """Return the tiny configuration of an architecture."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    default = kind()
    overrides = OVERRIDES.get(model_type, {})
    sizes = {name: value for name, value in SIZES.items() if _has(default, name) and overrides.get(name, 0) is not None}
    return kind(**{**sizes, **{name: value for name, value in overrides.items() if value is not None}})


def tiny_model(model_type: str, seed: int = 0) -> Any:
    """Return a tiny model of an architecture, with weights drawn from the seed.

    Raises:
        NotTiny: the model would have more than `LARGEST` parameters, or cannot be built.
    """
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = tiny_config(model_type)
            with torch.device("meta"):
                count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        except Exception as error:  # of validators and optional packages, which differ between the architectures
            lines = str(error).strip().splitlines()
            raise NotTiny(f"{type(error).__name__}: {lines[-1].strip() if lines else ''}") from error
        if count > LARGEST:
            raise NotTiny(f"no small configuration is known ({count:,} parameters with the sizes here)")
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def _has(config: Any, name: str) -> bool:
    """Return True if a configuration has an attribute, also one that raises because it differs between layers."""
    try:
        return hasattr(config, name)
    except (NotImplementedError, ValueError):
        return True
    except Exception as error:  # of a private class of transformers, for attributes that layers have
        return "per-layer" in str(error)

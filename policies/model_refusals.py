"""Refusals of models that cannot be trained; all but `check_finite` come before their weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.model_files import listed
from rlalign.policies.model_folder import ModelFolder
from rlalign.policies.model_kind import Quantization, causal_class
from rlalign.policies.weight_names import WeightNames
from rlalign.types import Tokenizer

# kind -> what the model is, and what works instead
_KINDS = {
    "classifier": (
        "a classifier",
        "use --reward 'classifier?model={name}' to reward with it, and a causal language model as the policy",
    ),
    "encoder-decoder": (
        "an encoder-decoder, whose decoder alone is no language model",
        "use a decoder-only model, such as a Llama, Qwen or GPT-2",
    ),
    "encoder": (
        "a bidirectional encoder, which cannot generate from left to right",
        "use a decoder-only model",
    ),
    "other": ("a model of another task", "use a folder that AutoModelForCausalLM wrote"),
}


def check_trainable(folder: ModelFolder) -> None:
    """Raise UserError for a model that would not be trained as what it is.

    Refused are other kinds than causal language models, weights that are incomplete or that do not belong to the
    configuration, and quantized weights without the package that reads them. An adapter is judged by its base and by
    its task.

    Args:
        folder: of `inspect_model`.
    """
    if folder.adapter is not None:
        _check_adapter(folder)
        return
    if folder.kind in _KINDS:
        what, fix = _KINDS[folder.kind]
        encodes = getattr(folder.config, "is_decoder", True) is False
        if folder.kind == "encoder" and encodes and causal_class(folder.config) is not None:
            fix += ", or, if it was trained as a decoder, set is_decoder in its config.json"
        architecture = folder.architecture or folder.model_type
        raise UserError(
            f"policy '{folder.name}': expected a causal language model, got {architecture}, {what}; "
            f"{fix.format(name=folder.name)}"
        )
    if folder.quantization is not None:
        check_quantization(folder.name, folder.quantization)
    if folder.weights is not None:
        check_weights(folder.name, folder.architecture or str(folder.model_type), folder.weights)


def check_weights(name: str, architecture: str, weights: WeightNames) -> None:
    """Raise UserError for weights that do not form the model.

    Args:
        name: of the model, for the message.
        architecture: class that wrote the weights, for the message.
        weights: the comparison.
    """
    if weights.missing:
        raise UserError(
            f"policy '{name}': expected all tensors of a causal language model, got {architecture} without "
            f"{listed(list(weights.missing))}, which would be random; use a complete copy of the model"
        )
    if weights.mismatched:
        raise UserError(
            f"policy '{name}': expected weights of the shapes that config.json describes, got "
            f"{listed(list(weights.mismatched), 2)}; use the config.json and the weights of one model"
        )
    if weights.dropped:
        raise UserError(
            f"policy '{name}': expected weights that config.json describes, got {listed(list(weights.dropped))}, which "
            "the model does not have and would ignore; use the config.json and the weights of one model"
        )


def check_finite(name: str, parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise UserError for loaded weights that hold NaN or infinity.

    Args:
        name: of the model, for the message.
        parameters: names and tensors, as `named_parameters` returns them.
    """
    for tensor_name, parameter in parameters:
        if not parameter.isfinite().all():
            raise UserError(
                f"policy '{name}': expected finite weights, got NaN or infinity in {tensor_name}; use another copy of "
                "the model, or an earlier checkpoint of its training"
            )


def check_quantization(name: str, quantization: Quantization) -> None:
    """Raise UserError for quantized weights that cannot be read here."""
    if not quantization.installed:
        raise UserError(
            f"policy '{name}': its weights are quantized with {quantization.method}, expected the package "
            f"'{quantization.package}', which is not installed; use the model before quantization, or install it"
        )


def check_tokenizer(folder: ModelFolder, other: Tokenizer | None) -> None:
    """Raise UserError for a tokenizer of the folder that is broken or of another model, or that can end no turn.

    Args:
        folder: of `inspect_model`.
        other: tokenizer for a folder without one, such as the environment's. Its ids must be those of the model's
            output, or the model would generate ids that it does not have.
    """
    facts = folder.tokenizer
    if facts.error is not None:
        raise UserError(
            f"policy '{folder.name}': its tokenizer cannot be loaded ({facts.error}); use a complete copy of the "
            "model's tokenizer files"
        )
    if facts.hf is None:
        _check_other_tokenizer(folder, other)
        return
    if facts.of_another_model:
        raise UserError(
            f"policy '{folder.name}': expected a tokenizer of at most {folder.embedding_rows} tokens, the rows of the "
            f"model's embedding, got {facts.tokens}; use the tokenizer files of this model"
        )
    if not folder.stop_ids:
        raise UserError(
            f"policy '{folder.name}': expected a token that ends a turn, got none that the model can generate (EOS of "
            f"the tokenizer: {facts.eos_id}); set eos_token_id in its generation_config.json"
        )


def _check_other_tokenizer(folder: ModelFolder, other: Tokenizer | None) -> None:
    """Raise UserError if the tokenizer for a folder without one is missing or has other ids than the model's output."""
    if other is None:
        raise UserError(
            f"policy '{folder.name}': expected a tokenizer, which the folder does not hold; pass tokenizer=..., or "
            "save the model's tokenizer there"
        )
    if folder.output_rows is not None and other.vocab_size != folder.output_rows:
        raise UserError(
            f"policy '{folder.name}': expected a tokenizer, which the folder does not hold, and that of the "
            f"environment has {other.vocab_size} ids for the model's {folder.output_rows}; save the model's tokenizer "
            "there"
        )


def _check_adapter(folder: ModelFolder) -> None:
    """Raise UserError for an adapter without its base, on a base that cannot be trained, or of another model."""
    adapter, base = folder.adapter, folder.base
    assert adapter is not None
    if base is None:
        raise UserError(
            f"policy '{folder.name}': expected the base model of the adapter, got no base_model_name_or_path in its "
            "adapter_config.json; set it to the folder or hub id of the base"
        )
    if adapter.task in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"):
        raise UserError(
            f"policy '{folder.name}': expected an adapter of a causal language model, got one of task {adapter.task}; "
            "use an adapter of task CAUSAL_LM"
        )
    check_trainable(base)

"""Kind of a model, the class that loads it, and its quantization, from the content of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

Kind = Literal["causal", "classifier", "encoder-decoder", "encoder", "body", "other", "adapter"]
"""What a folder holds.

causal: a causal language model. classifier: a head of classes or scores. encoder-decoder: two towers. encoder: a
bidirectional model of masked tokens. body: a model without a head. other: a head of another task. adapter: weights of
peft, to be added to a base model.
"""

_CLASSIFIERS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForMultipleChoice",
    "ForQuestionAnswering",
    "RewardModel",
)

# method of quantization -> package that transformers needs to load it; None: transformers alone
_PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "quanto": "optimum",
    "quark": "quark",
    "eetq": "kernels",
    "higgs": "flute",
    "hqq": "hqq",
    "compressed-tensors": "compressed_tensors",
    "torchao": "torchao",
    "vptq": "vptq",
    "spqr": "spqr_quant",
    "auto-round": "auto_round",
    "fp_quant": "fp_quant",
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the stored weights are quantized.

    Attributes:
        method: name in config.json, such as gptq.
        package: package that reads it; None if transformers alone does, or if the method is unknown.
        installed: the package can be imported, or none is needed.
    """

    method: str
    package: str | None
    installed: bool


def architecture_of(content: Mapping[str, Any]) -> str | None:
    """Return the first class that config.json names; None if it names none."""
    names = content.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def kind_of(content: Mapping[str, Any], config: Any) -> Kind:
    """Return the kind of a model folder from the class that wrote it and from its configuration."""
    from transformers.models.auto import modeling_auto as auto

    architecture = architecture_of(content)
    if architecture is not None and architecture.endswith(_CLASSIFIERS):
        return "classifier"
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    # BERT and its relatives are bidirectional unless their configuration says decoder
    masked_family = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked_family and getattr(config, "is_decoder", True) is False:
        return "encoder"
    if architecture is None or architecture in _class_names(causal) or "auto_map" in content:
        return "causal"
    if architecture in _class_names(auto.MODEL_MAPPING_NAMES):
        return "body"
    if architecture in _class_names(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        return "encoder"
    return "causal" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else "other"


def _class_names(mapping: Mapping[str, Any]) -> set[str]:
    """Return the class names of a mapping of transformers, whose values are names or tuples of names."""
    names: set[str] = set()
    for value in mapping.values():
        names.update((value,) if isinstance(value, str) else value)
    return names


def causal_class(config: Any) -> Any:
    """Return the class that `AutoModelForCausalLM` loads for a configuration; None without one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def quantization_of(content: Mapping[str, Any]) -> Quantization | None:
    """Return the quantization that config.json declares."""
    declared = content.get("quantization_config") or content.get("compression_config")
    if not isinstance(declared, dict):
        return None
    method = str(declared.get("quant_method") or "unknown")
    if method == "unknown" and (declared.get("load_in_4bit") or declared.get("load_in_8bit")):
        method = "bitsandbytes"
    package = _PACKAGES.get(method)
    return Quantization(method, package, package is None or find_spec(package) is not None)

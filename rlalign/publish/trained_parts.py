"""The weights that a run trained: all of them or an adapter, how many, and over which base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.algorithms import UNTRAINED
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.names import stored_options
from rlalign.policies.model_files import read_headers
from rlalign.storage import checkpoint

_BITS = {"nf4": "4 bits (NF4)", "int8": "8 bits (int8)"}
_VALUE = "policy.value"  # by convention the names of the value's own parameters begin so


@dataclass(frozen=True)
class TrainedParts:
    """The trained weights of a run.

    Attributes:
        adapter: its kind in words; empty: all weights were trained.
        parameters: number of trained parameters of the policy, without those of the value; 0: not known, or none.
        quantization: format of the frozen weights, nf4 or int8; empty: not quantized.
        virtual_tokens: the adapter is virtual tokens, and the policy folder holds no merged weights.
        nats_over_plain_base: largest difference of a log-prob from the policy's if the adapter is loaded over the base
            before quantization; None: not measured.
    """

    adapter: str = ""
    parameters: int = 0
    quantization: str = ""
    virtual_tokens: bool = False
    nats_over_plain_base: float | None = None

    @property
    def sentence(self) -> str:
        """The trained weights in a sentence; empty if nothing is known."""
        count = f"{self.parameters:,} trained parameters" if self.parameters else ""
        if not self.adapter:
            return f"Full fine-tuning: {count}." if count else ""
        what = f"{self.adapter}, {count}," if count else self.adapter
        bits = _BITS.get(self.quantization, "")
        frozen = f"frozen weights stored in {bits} and dequantized for each product" if bits else "frozen weights"
        return f"Adapter: {what} over {frozen}.{self._files}"

    @property
    def start(self) -> str:
        """How the initial policy differs from the model that it names, in a sentence; empty: not at all."""
        differences = []
        if self.virtual_tokens:
            differences.append(f"the virtual tokens as they were before training ({self.adapter})")
        if self.quantization in _BITS:
            differences.append(f"the weights quantized to {_BITS[self.quantization]}")
        if not differences:
            return ""
        return (
            f"The initial policy, which the metric kl and the reference policy of a KL refer to, is the model with "
            f"{' and '.join(differences)}."
        )

    @property
    def _files(self) -> str:
        """Sentences about the weights in the policy folder of a quantized run."""
        if self.quantization not in _BITS:
            return ""
        merged = "" if self.virtual_tokens else " This folder holds the dequantized weights with the adapter added."
        if self.nats_over_plain_base is None or not math.isfinite(self.nats_over_plain_base):
            return merged
        return (
            f"{merged} Loaded over the base before quantization, the adapter gives another policy: its log-probs "
            f"differ by up to {self.nats_over_plain_base:.2g} nats."
        )


def trained_parts(
    folder: Path, config: TrainConfig, adapter: Mapping[str, Any], card: Mapping[str, Any]
) -> TrainedParts:
    """Return the trained weights of a run folder, from its files.

    Args:
        folder: of the run.
        config: its configuration.
        adapter: content of the stored adapter_config.json; empty: no adapter is stored.
        card: content of policy.json.
    """
    if config.algorithm in UNTRAINED:
        return TrainedParts()
    options = stored_options(adapter) if adapter else config.model.adapter.resolved()
    words = options.description if options is not None and options.is_trained else ""
    if adapter and not words:
        words = str(adapter.get("peft_type"))  # a kind that this library does not build
    measured = (card.get("measured") or {}).get("adapter") or {}
    quantization = config.model.base if config.model.base != "none" else str(measured.get("quantization") or "")
    return TrainedParts(
        words,
        _parameters(folder),
        quantization,
        virtual_tokens=options is not None and options.is_virtual,
        nats_over_plain_base=measured.get("nats_over_plain_base"),
    )


def _parameters(folder: Path) -> int:
    """Return the number of trained parameters in the newest checkpoint; 0 without one that can be read."""
    checkpoints = checkpoint.complete(folder / "checkpoints")
    if not checkpoints:
        return 0
    try:
        tensors = read_headers([checkpoints[-1] / "policy.safetensors"], str(folder))
    except (OSError, UserError):
        return 0
    return sum(math.prod(tensor.shape) for name, tensor in tensors.items() if not name.startswith(_VALUE))

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

_VALUE = "policy.value"  # by convention the names of the value's own parameters begin so


@dataclass(frozen=True)
class TrainedParts:
    """The trained weights of a run.

    Attributes:
        adapter: its kind in words; empty: all weights were trained.
        parameters: number of trained parameters of the policy, without those of the value; 0: not known, or none.
        quantization: format of the frozen weights, nf4 or int8; empty: not quantized.
    """

    adapter: str = ""
    parameters: int = 0
    quantization: str = ""

    @property
    def sentence(self) -> str:
        """The trained weights in a sentence; empty if nothing is known."""
        count = f"{self.parameters:,} trained parameters" if self.parameters else ""
        if not self.adapter:
            return f"Full fine-tuning: {count}." if count else ""
        what = f"{self.adapter}, {count}," if count else self.adapter
        bits = {"nf4": "4 bits (NF4)", "int8": "8 bits (int8)"}.get(self.quantization, "")
        frozen = f"frozen weights in {bits}, which products dequantize" if bits else "frozen weights"
        return f"Adapter: {what} over {frozen}."


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
    options = stored_options(adapter) if adapter else config.model.adapter
    words = options.description if options is not None and options.is_trained else ""
    if adapter and not words:
        words = str(adapter.get("peft_type"))  # a kind that this library does not build
    measured = (card.get("measured") or {}).get("adapter") or {}
    quantization = config.model.base if config.model.base != "none" else str(measured.get("quantization") or "")
    return TrainedParts(words, _parameters(folder), quantization)


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

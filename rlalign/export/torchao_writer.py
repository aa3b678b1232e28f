"""A quantized folder of transformers: weights of torchao in safetensors, which `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlalign.errors import FaultError
from rlalign.export.forms import Form
from rlalign.export.hf_writer import copy_companions
from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.model_digests import write_digests

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def write_torchao(source: Path, folder: Path, form: Form, max_shard_size: str) -> None:
    """Quantize the linear layers of a transformers folder, without embedding and head, and write them as safetensors.

    What is not quantized is in bfloat16.

    Args:
        source: the folder with merged weights.
        folder: the folder to write, which exists.
        form: of the format hf, quantized.
        max_shard_size: largest weight file.

    Raises:
        FaultError: a file would hold pickled objects.
    """
    from transformers import AutoModelForCausalLM, TorchAoConfig

    with hidden_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16, quantization_config=TorchAoConfig(_settings(form)), use_safetensors=True
        )
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    pickled = [path.name for path in folder.iterdir() if path.suffix in _PICKLED]
    if pickled:
        raise FaultError(f"expected only safetensors from torchao, got {', '.join(pickled)}; use torchao 0.18 or later")
    copy_companions(source, folder)
    write_digests(folder)


def _settings(form: Form) -> Any:
    """Return torchao's configuration of a form."""
    from torchao import quantization

    if form.quantize == "int8":
        return quantization.Int8WeightOnlyConfig(version=2)  # earlier versions are stored by pickle
    if form.quantize == "int8_dynamic":
        return quantization.Int8DynamicActivationInt8WeightConfig(version=2)
    return quantization.Int4WeightOnlyConfig(group_size=32)

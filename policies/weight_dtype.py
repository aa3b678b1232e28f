"""Casts of a model's weights for computing, and float32 copies on the CPU."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.policies.quantized_base import QuantizedLinear


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the floating parameters and buffers of a model in place, as loading it with `from_pretrained` would.

    `nn.Module.to` casts two kinds of tensors that transformers keeps: buffers that no file stores (rotary frequencies
    rounded to bfloat16 turn the angles of distant positions by whole radians), and the parameters that an architecture
    keeps in float32.

    Args:
        model: a transformers model without adapters.
        dtype: the new dtype.
    """
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if name in module._non_persistent_buffers_set and buffer is not None and buffer.is_floating_point()
    ]
    weights = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = {}
    if dtype != torch.float32:
        kept = {name: weight.data for name, weight in weights.items() if _is_kept_in_float32(model, name)}
    model.to(dtype)
    for name, value in kept.items():
        module_name, _, leaf = name.rpartition(".")
        getattr(model.get_submodule(module_name), leaf).data = value
    for module, name, buffer in buffers:
        module._buffers[name] = buffer


def _is_kept_in_float32(model: nn.Module, name: str) -> bool:
    """Return True for a parameter or buffer that the architecture keeps in float32 in every low precision."""
    # private in transformers, which has no public name for it; without it nothing is kept, as in earlier versions
    modules = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return any(re.search(rf"(^|\.){re.escape(module)}(\.|$)", name) for module in modules)


@contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model after the block: CTRL rounds its table of positions in each forward pass."""
    originals = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, buffers in originals:
            module._buffers.update(buffers)


def float32_copy(model: Any) -> Any:
    """Return a copy of a model on the CPU with float32 parameters and buffers, without gradient, ties included.

    Quantized layers become plain ones with the values that they compute with.

    No memory of another device is used.

    Args:
        model: a module on any device.
    """

    def converted(tensor: Tensor) -> Tensor:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to("cpu", dtype, copy=True).contiguous()

    # States of recurrent layers, which deepcopy refuses while they belong to a graph. Such an attribute may also be a
    # second name of a buffer, which is converted below.
    states = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    # deepcopy takes an object from this memo instead of copying it
    memo: dict[int, Any] = {id(state): state.detach().clone() for state in states}
    memo |= {id(m): m.to_plain() for m in model.modules() if isinstance(m, QuantizedLinear)}
    memo |= {id(p): nn.Parameter(converted(p), requires_grad=False) for p in model.parameters()}
    memo |= {id(b): converted(b) for b in model.buffers()}
    return copy.deepcopy(model, memo)

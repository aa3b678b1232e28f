"""Device, compute dtype, dropout, seeded initialization and progress bars: the surroundings of building a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from rlalign.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA if available, else the CPU.

    Raises:
        UserError: the device is unknown or not available on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # an unavailable device is reported only when a tensor is made on it
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used here ({reason}); use --device auto") from error
    return device


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one of this thread within the block; do nothing for another device.

    An operation runs on the device of its tensors. Captured graphs, events, pinned memory and Triton kernels use the
    current device instead, which is device 0 at the start of each thread.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def disable_cudnn_attention(device: torch.device) -> None:
    """Exclude cuDNN from `scaled_dot_product_attention` in this process if the device is CUDA.

    torch prefers cuDNN for bfloat16 on Hopper. Its backward returns NaN for some masks (pytorch#196678), and it builds
    a plan for each new shape, which takes longer than the attention itself.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def compute_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Return the dtype of "float32", "bfloat16" or "auto"; auto is bfloat16 if the hardware multiplies it natively.

    On a CPU without avx512_bf16 or AMX, bfloat16 matrix products are several times slower than float32 ones.
    """
    if choice != "auto":
        return torch.bfloat16 if choice == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # private functions of torch.cpu: `bool` in place of a missing one returns False
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def disable_dropout(model: nn.Module) -> None:
    """Set every rate of dropout to 0: of dropout modules, and of modules that call the function with a rate of theirs.

    Gradient checkpointing of transformers works in training mode only, in which the latter would drop.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or name.endswith("_pdrop")):
                setattr(module, name, 0.0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed and restore the global generator afterwards.

    Weights are drawn on the CPU, so that they are equal on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def hidden_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars: a run has a progress line of its own."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers

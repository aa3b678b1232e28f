"""Where to compute, and in which number format."""

from __future__ import annotations

import torch

from rlalign.errors import UserError


def compute_dtype(choice: str, device: torch.device) -> torch.dtype:
    """The dtype of "float32", "bfloat16" or "auto": bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU without avx512_bf16 or AMX, bfloat16 products are several times slower than float32 ones.
    """
    if choice != "auto":
        return torch.bfloat16 if choice == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def device_of(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used here ({reason}): try --device auto") from error
    return device

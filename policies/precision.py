"""Which number format to compute in."""

from __future__ import annotations

import torch


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

"""Device, compute dtype, seeded initialization and progress bars: the surroundings of building a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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

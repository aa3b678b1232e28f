"""Memory of the device: recognition of errors, free bytes, buffers that can be dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from rlalign.errors import FaultError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_MESSAGES = (
    "out of memory",
    "can't allocate memory",  # the allocator of the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Messages of errors for a lack of memory that are not of the class `torch.OutOfMemoryError`."""


class Releasable(Protocol):
    """An object with buffers on the device that it can allocate again."""

    def release(self) -> bool:
        """Drop the buffers; return whether there were any."""
        ...


_RELEASABLE: WeakSet[Any] = WeakSet()


def register(owner: Releasable) -> None:
    """Let `release_buffers` drop the buffers of an object, for as long as the object exists."""
    _RELEASABLE.add(owner)


def release_buffers() -> bool:
    """Drop all buffers that are kept for speed alone, such as those of decoding; return whether there were any."""
    released = [owner.release() for owner in list(_RELEASABLE)]
    return any(released)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error that a lack of memory raised, on a device or on the host.

    The caching allocator raises `torch.OutOfMemoryError`. The CUDA runtime, cuBLAS, cuDNN and the allocator of the CPU
    raise a RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


@contextmanager
def loading(what: str, fix: str) -> Iterator[None]:
    """Raise a FaultError that names the fix if memory runs out while weights are loaded.

    Args:
        what: what is loaded, and where, such as "the policy 'a' is loaded on cpu".
        fix: behind "use".
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise FaultError(f"out of memory while {what} ({first_line}); use {fix}") from error


def empty_cache() -> None:
    """Return unused blocks of the caching allocator to the device.

    Call it after the `except` block of an error: within it the traceback still holds the tensors.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_parts(function: Callable[[Tensor], T], rows: Tensor) -> list[T]:
    """Return the results of a function for consecutive parts of the rows: one part, or halves until they fit.

    Args:
        function: takes int64 [n] row indices.
        rows: int64 [N].

    Raises:
        RuntimeError: memory ran out for a single row.
    """
    try:
        return [function(rows)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(rows) == 1:
            raise
    release_buffers()
    empty_cache()
    middle = len(rows) // 2
    return [*in_parts(function, rows[:middle]), *in_parts(function, rows[middle:])]


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that new tensors can take on a CUDA device; None for another device.

    These are the bytes that no process has and the unused ones of this process's caching allocator.
    """
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused

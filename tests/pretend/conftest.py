"""A CUDA device that is not there: every tensor stays in the CPU's memory and knows on which device it would be.

What a real device would refuse is refused: an operation on tensors of both, a number read from memory that is not the
host's. What would make the host wait is counted. So a machine without a GPU finds a tensor that was made in the wrong
place, and a loop that waits for each token; it finds nothing about kernels, captured graphs, speed or memory.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_OURS = str(Path(__file__).parents[2])

_device = torch.Tensor.device.__get__
_is_cuda = torch.Tensor.is_cuda.__get__
_is_cpu = torch.Tensor.is_cpu.__get__
_set_data = torch.Tensor.data.__set__
_READS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.nonzero,
    torch.nonzero,
    torch.Tensor.masked_select,
    torch.masked_select,
    torch.Tensor.unique,
    torch.unique,
    torch.equal,
    torch.Tensor.equal,
    torch.Tensor.allclose,
    torch.allclose,
    torch.Tensor.__contains__,
}
_MOVES = {torch.Tensor.copy_, torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.type_as, _set_data}
_INDEXES = {torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.index_put_, torch.Tensor.index_put}


class DeviceError(AssertionError):
    """A real device would have refused this."""


class PretendCuda(TorchFunctionMode):
    """Torch functions, told apart by where their tensors would be. `waits`: where the host waited for the device."""

    def __init__(self) -> None:
        super().__init__()
        self._homes: dict[
            int, tuple[Any, torch.device]
        ] = {}  # storage -> itself, kept alive so that no other gets its id
        self.waits: list[str] = []
        self._capturing = False

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """As while a graph is captured: nothing may wait or come from the host."""
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    # ---- where a tensor is ----

    def home(self, x: Tensor) -> torch.device | None:
        """Its device; None for one that C++ made and nobody has asked about."""
        found = self._homes.get(self._key(x))
        return None if found is None else found[1]

    def put(self, x: Tensor, device: torch.device) -> Tensor:
        """Say where a tensor is."""
        self._homes.setdefault(self._key(x), (x.untyped_storage(), device))
        return x

    @staticmethod
    def _key(x: Tensor) -> int:
        return int(x.untyped_storage()._cdata)

    # ---- what torch is asked ----

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _meta(args, kwargs):
            return func(*args, **kwargs)  # tensors without content are on no device
        if func == _device:
            return self.home(args[0]) or CPU
        if func == _is_cuda:
            return (self.home(args[0]) or CPU).type == "cuda"
        if func == _is_cpu:
            return (self.home(args[0]) or CPU).type == "cpu"
        if func is torch.Tensor.pin_memory:
            return args[0]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.layout == torch.strided]
        homes = [self.home(x) for x in given]
        if func == torch._has_compatible_shallow_copy_type:
            return homes[0] == homes[1]
        if func in _MOVES and func != _set_data:
            return self._move(func, args, kwargs)
        self._refuse(func, given, homes)
        if func in _READS or _by_mask(func, args):
            self._wait(homes)
        if func is torch.Tensor.numpy and CUDA in homes:
            raise DeviceError("numpy() of a tensor on the device")
        wanted = kwargs.get("device")
        where = None if wanted is None else _as_device(wanted)
        if where is not None:
            kwargs["device"] = CPU
        if where == CUDA and self._capturing and func in (torch.tensor, torch.as_tensor):
            raise DeviceError("a tensor is sent to the device while it captures")
        kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        if where is None and given:
            where = CUDA if CUDA in homes else CPU if CPU in homes else None
        elif where is None:
            where = CPU
        if where is not None:
            tree_map(lambda x: self.put(x, where) if isinstance(x, Tensor) and x.layout == torch.strided else x, out)
        return out

    def _refuse(self, func: Callable[..., Any], given: list[Tensor], homes: list[torch.device | None]) -> None:
        there = [x for x, home in zip(given, homes, strict=True) if home == CUDA]
        here = [x for x, home in zip(given, homes, strict=True) if home == CPU and x.ndim > 0]
        if not there or not here:
            return
        if func in _INDEXES and self.home(given[0]) == CUDA:
            self._wait([CUDA])  # allowed, and copied over first
            return
        raise DeviceError(f"{getattr(func, '__name__', func)} of tensors on the device and on the host")

    def _move(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        before = self.home(x) or CPU
        if func is torch.Tensor.copy_:
            source = self.home(args[1]) or CPU
            if before == CPU and source == CUDA and not kwargs.get("non_blocking"):
                self._wait([CUDA])
            return func(*args, **kwargs)
        after = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}.get(func, before)
        rest = []
        for value in args[1:]:
            if isinstance(value, str | torch.device):
                after, value = _as_device(value), CPU
            elif isinstance(value, Tensor):
                after = self.home(value) or CPU
            rest.append(value)
        if "device" in kwargs and kwargs["device"] is not None:
            after, kwargs["device"] = _as_device(kwargs["device"]), CPU
        if before == CPU and after == CUDA and self._capturing:
            raise DeviceError("a tensor is sent to the device while it captures")
        if before == CUDA and after == CPU:
            if sys._getframe(2).f_code.co_name == "_clip_grads_with_norm_":
                after = CUDA  # C++ told it where the gradients are, and C++ is not fooled
            else:
                self._wait([CUDA])
        out = x.clone() if func in (torch.Tensor.cpu, torch.Tensor.cuda) else func(x, *rest, **kwargs)
        if after != before and self._key(out) == self._key(x):
            out = out.clone()
        return self.put(out, after)

    def _wait(self, homes: list[torch.device | None]) -> None:
        if CUDA in homes and self._capturing:
            raise DeviceError("the host waits for the device while it captures")
        if CUDA in homes:
            ours = [f for f in traceback.extract_stack() if f.filename.startswith(_OURS) and f.filename != __file__]
            ours = [f for f in ours if "site-packages" not in f.filename] or ours
            self.waits.append(f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}")


def _by_mask(func: Callable[..., Any], args: Any) -> bool:
    """Indexing by a mask: how many there are is a number from the device."""
    if func not in _INDEXES or len(args) < 2:
        return False
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1]))


def _meta(args: Any, kwargs: Any) -> bool:
    """A tensor without content is asked, or asked for: transformers builds a model of such, and fills it afterwards."""
    named = [x for x in (*args, kwargs.get("device")) if isinstance(x, str | torch.device)]
    return "meta" in map(str, named) or any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs)))


def _as_device(value: Any) -> torch.device:
    device = torch.device(value)
    return CUDA if device.type == "cuda" else CPU


class _Event:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextlib.contextmanager
def _no_graph(_: Any) -> Iterator[None]:
    raise RuntimeError("this device is a pretence")
    yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    """A pretended device while a test runs."""
    import peft  # noqa: F401 - what looks at torch.Generator when it is imported
    from transformers import LlamaForCausalLM  # noqa: F401 - as above

    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretence")
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", _no_graph)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # what a build for CUDA asks of the driver, and one for CPUs does not
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    with PretendCuda() as mode:
        yield mode

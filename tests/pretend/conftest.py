"""An emulated CUDA device: each tensor stays in CPU memory and is labeled with the device that it would be on.

The emulation raises for operations that fail on a real device: those on tensors of both devices, and reads of device
memory by the host. It counts the operations that would make the host wait. Hence tests without a GPU detect a tensor on
the wrong device, and a loop that waits for each token. They detect nothing about kernels, captured graphs, speed or
memory.
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
_ROOT = str(Path(__file__).parents[2])

# the C functions behind the attributes: a torch function mode intercepts these
_device = torch.Tensor.device.__get__
_is_cuda = torch.Tensor.is_cuda.__get__
_is_cpu = torch.Tensor.is_cpu.__get__
_set_data = torch.Tensor.data.__set__
# functions that read values, or whose result has a size that depends on values: the host waits for them
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
    """An operation that fails on a real device."""


class PretendCuda(TorchFunctionMode):
    """Emulation of the torch functions by the devices of their tensors.

    Attributes:
        waits: the lines of code at which the host waited for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        # id of a storage -> the storage, kept alive so that no other gets the same id, and its device
        self._devices: dict[int, tuple[Any, torch.device]] = {}
        self.waits: list[str] = []
        self._capturing = False

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Emulate the capture of a graph: within it the host may not wait, and no data may come from the host."""
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    # ---- device of a tensor ----

    def device_of(self, x: Tensor) -> torch.device | None:
        """Return the device of a tensor; None if C++ created it and no function has used it yet."""
        entry = self._devices.get(self._key(x))
        return None if entry is None else entry[1]

    def put(self, x: Tensor, device: torch.device) -> Tensor:
        """Record the device of a tensor and return the tensor."""
        self._devices.setdefault(self._key(x), (x.untyped_storage(), device))
        return x

    @staticmethod
    def _key(x: Tensor) -> int:
        return int(x.untyped_storage()._cdata)

    # ---- torch functions ----

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _meta(args, kwargs):
            return func(*args, **kwargs)  # tensors without content have no device
        if func == _device:
            return self.device_of(args[0]) or CPU
        if func == _is_cuda:
            return (self.device_of(args[0]) or CPU).type == "cuda"
        if func == _is_cpu:
            return (self.device_of(args[0]) or CPU).type == "cpu"
        if func is torch.Tensor.pin_memory:
            return args[0]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.layout == torch.strided]
        devices = [self.device_of(x) for x in tensors]
        if func == torch._has_compatible_shallow_copy_type:
            return devices[0] == devices[1]
        if func in _MOVES and func != _set_data:
            return self._move(func, args, kwargs)
        self._check_devices(func, tensors, devices)
        if func in _READS or _by_mask(func, args):
            self._wait(devices)
        if func is torch.Tensor.numpy and CUDA in devices:
            raise DeviceError("numpy() of a tensor on the device")
        argument = kwargs.get("device")
        target = None if argument is None else _as_device(argument)
        if target is not None:
            kwargs["device"] = CPU
        if target == CUDA and self._capturing and func in (torch.tensor, torch.as_tensor):
            raise DeviceError("a tensor is sent to the device while it captures")
        kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        if target is None and not tensors:
            target = CPU
        elif target is None and CUDA in devices:
            target = CUDA
        elif target is None and CPU in devices:
            target = CPU
        if target is not None:
            tree_map(lambda x: self.put(x, target) if isinstance(x, Tensor) and x.layout == torch.strided else x, out)
        return out

    def _check_devices(
        self, func: Callable[..., Any], tensors: list[Tensor], devices: list[torch.device | None]
    ) -> None:
        """Raise DeviceError for tensors of both devices; a scalar tensor of the host is allowed, as in torch."""
        on_cuda = [x for x, device in zip(tensors, devices, strict=True) if device == CUDA]
        on_host = [x for x, device in zip(tensors, devices, strict=True) if device == CPU and x.ndim > 0]
        if not on_cuda or not on_host:
            return
        if func in _INDEXES and self.device_of(tensors[0]) == CUDA:
            self._wait([CUDA])  # allowed: torch copies the index to the device first
            return
        raise DeviceError(f"{getattr(func, '__name__', func)} of tensors on the device and on the host")

    def _move(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        before = self.device_of(x) or CPU
        if func is torch.Tensor.copy_:
            source = self.device_of(args[1]) or CPU
            if before == CPU and source == CUDA and not kwargs.get("non_blocking"):
                self._wait([CUDA])
            return func(*args, **kwargs)
        after = {torch.Tensor.cpu: CPU, torch.Tensor.cuda: CUDA}.get(func, before)
        rest = []
        for value in args[1:]:
            if isinstance(value, str | torch.device):
                after, value = _as_device(value), CPU
            elif isinstance(value, Tensor):
                after = self.device_of(value) or CPU
            rest.append(value)
        if "device" in kwargs and kwargs["device"] is not None:
            after, kwargs["device"] = _as_device(kwargs["device"]), CPU
        if before == CPU and after == CUDA and self._capturing:
            raise DeviceError("a tensor is sent to the device while it captures")
        if before == CUDA and after == CPU:
            if sys._getframe(2).f_code.co_name == "_clip_grads_with_norm_":
                after = CUDA  # it asks C++ for the device of the gradients, and the emulation does not reach C++
            else:
                self._wait([CUDA])
        out = x.clone() if func in (torch.Tensor.cpu, torch.Tensor.cuda) else func(x, *rest, **kwargs)
        if after != before and self._key(out) == self._key(x):
            out = out.clone()
        return self.put(out, after)

    def _wait(self, devices: list[torch.device | None]) -> None:
        """Record the line of this repository at which the host waits."""
        if CUDA in devices and self._capturing:
            raise DeviceError("the host waits for the device while it captures")
        if CUDA in devices:
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(_ROOT) and f.filename != __file__]
            # an environment inside the repository holds the dependencies
            frames = [f for f in frames if "site-packages" not in f.filename] or frames
            self.waits.append(f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].line}")


def _by_mask(func: Callable[..., Any], args: Any) -> bool:
    """Return True for indexing by a mask: the size of the result depends on values on the device."""
    if func not in _INDEXES or len(args) < 2:
        return False
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1]))


def _meta(args: Any, kwargs: Any) -> bool:
    """Return True for a call with or for meta tensors: transformers builds a model of them and fills it afterwards."""
    devices = [x for x in (*args, kwargs.get("device")) if isinstance(x, str | torch.device)]
    return "meta" in map(str, devices) or any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs)))


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
    raise RuntimeError("this device is emulated")
    yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    """Emulate a CUDA device during a test."""
    import peft  # noqa: F401 - reads torch.Generator on import, so that it must precede the patch below
    from transformers import LlamaForCausalLM  # noqa: F401 - as above

    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", list)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "an emulation")
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", _no_graph)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # a CUDA build of torch calls the driver in these, a CPU build does not
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    with PretendCuda() as mode:
        yield mode

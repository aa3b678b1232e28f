"""An emulated CUDA device: each tensor stays in CPU memory and is labeled with the device that it would be on.

The emulation raises for operations that fail on a real device: those on tensors of both devices, and reads of device
memory by the host. It counts the operations that would make the host wait, the operations under another current device
than that of their tensors, the attention that no fused kernel computes, and the bytes of new tensors. Hence tests
without a GPU detect a tensor on the wrong device, a loop that waits for each token and a missing device guard. They
detect nothing about kernels, captured graphs or speed, and about memory only what the code computes from free bytes.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
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
        unguarded: the lines that used another device than the current one of their thread.
        unfused: the lines with attention that flash and memory-efficient kernels refuse, or that cuDNN would compute.
        new_bytes: bytes of all tensors that were made on a device.
        free_bytes: bytes that the device reports as free.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unguarded: list[str] = []
        self.unfused: list[str] = []
        self.new_bytes = 0
        self.free_bytes = 1 << 40
        # indices of the devices that were current when memory was pinned, an event recorded, a graph captured
        self.pinned_under: set[int] = set()
        self.recorded_under: set[int] = set()
        self.captured_under: set[int] = set()
        self._thread = threading.local()
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

    # ---- current device ----

    @property
    def current(self) -> int:
        """Index of the current device of this thread."""
        return getattr(self._thread, "index", 0)

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """Emulate `torch.cuda.device`."""
        before = self.current
        self._thread.index = self.as_device(device).index
        try:
            yield
        finally:
            self._thread.index = before

    def as_device(self, value: Any) -> torch.device:
        """Return a device with its index; `cuda` alone is the current device."""
        device = torch.device(value)
        return torch.device("cuda", self.current if device.index is None else device.index) if _on(device) else CPU

    def check_current(self, devices: list[torch.device | None]) -> None:
        """Record the line if one of the devices is a CUDA device other than the current one."""
        if any(device is not None and _on(device) and device.index != self.current for device in devices):
            self.unguarded.append(_line())

    # ---- device of a tensor ----

    def device_of(self, x: Tensor) -> torch.device | None:
        """Return the device of a tensor; None if C++ created it and no function has used it yet."""
        entry = self._devices.get(self._key(x))
        return None if entry is None else entry[1]

    def put(self, x: Tensor, device: torch.device) -> Tensor:
        """Record the device of a tensor and return the tensor."""
        if _on(device) and self._key(x) not in self._devices:
            self.new_bytes += x.untyped_storage().nbytes()
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
            self.pinned_under.add(self.current)
            return args[0]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.layout == torch.strided]
        devices = [self.device_of(x) for x in tensors]
        if func == torch._has_compatible_shallow_copy_type:
            return devices[0] == devices[1]
        if func in _MOVES and func != _set_data:
            return self._move(func, args, kwargs)
        self._check_devices(func, tensors, devices)
        if getattr(func, "__name__", "") not in ("__get__", "detach"):  # a property launches no kernel
            self.check_current(devices)
        if func is scaled_dot_product_attention and any(map(_on, devices)) and not _fused(*args, **kwargs):
            self.unfused.append(_line())
        if func in _READS or _by_mask(func, args):
            self._wait(devices)
        if func is torch.Tensor.numpy and any(map(_on, devices)):
            raise DeviceError("numpy() of a tensor on the device")
        argument = kwargs.get("device")
        target = None if argument is None else self.as_device(argument)
        if target is not None:
            kwargs["device"] = CPU
        if _on(target) and self._capturing and func in (torch.tensor, torch.as_tensor):
            raise DeviceError("a tensor is sent to the device while it captures")
        kwargs.pop("pin_memory", None)
        out = func(*args, **kwargs)
        if target is None and not tensors:
            target = CPU
        elif target is None and any(map(_on, devices)):
            target = next(filter(_on, devices))
        elif target is None and CPU in devices:
            target = CPU
        if target is not None:
            tree_map(lambda x: self.put(x, target) if isinstance(x, Tensor) and x.layout == torch.strided else x, out)
        return out

    def _check_devices(
        self, func: Callable[..., Any], tensors: list[Tensor], devices: list[torch.device | None]
    ) -> None:
        """Raise DeviceError for tensors of both devices; a scalar tensor of the host is allowed, as in torch."""
        if len({device for device in devices if _on(device)}) > 1:
            raise DeviceError(f"{getattr(func, '__name__', func)} of tensors on two devices")
        on_cuda = [x for x, device in zip(tensors, devices, strict=True) if _on(device)]
        on_host = [x for x, device in zip(tensors, devices, strict=True) if device == CPU and x.ndim > 0]
        if not on_cuda or not on_host:
            return
        if func in _INDEXES and _on(self.device_of(tensors[0])):
            self._wait(devices)  # allowed: torch copies the index to the device first
            return
        raise DeviceError(f"{getattr(func, '__name__', func)} of tensors on the device and on the host")

    def _move(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        before = self.device_of(x) or CPU
        if func is torch.Tensor.copy_:
            source = self.device_of(args[1]) or CPU
            if before == CPU and _on(source) and not kwargs.get("non_blocking"):
                self._wait([source])
            return func(*args, **kwargs)
        after = before
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            after = CPU if func is torch.Tensor.cpu else self.as_device("cuda")
        rest = []
        for value in args[1:]:
            if isinstance(value, str | torch.device):
                after, value = self.as_device(value), CPU
            elif isinstance(value, Tensor):
                after = self.device_of(value) or CPU
            rest.append(value)
        if "device" in kwargs and kwargs["device"] is not None:
            after, kwargs["device"] = self.as_device(kwargs["device"]), CPU
        if before == CPU and _on(after) and self._capturing:
            raise DeviceError("a tensor is sent to the device while it captures")
        if _on(before) and after == CPU:
            if sys._getframe(2).f_code.co_name == "_clip_grads_with_norm_":
                after = before  # it asks C++ for the device of the gradients, and the emulation does not reach C++
            else:
                self._wait([before])
        out = x.clone() if func in (torch.Tensor.cpu, torch.Tensor.cuda) else func(x, *rest, **kwargs)
        if after != before and self._key(out) == self._key(x):
            out = out.clone()
        return self.put(out, after)

    def _wait(self, devices: list[torch.device | None]) -> None:
        """Record the line of this repository at which the host waits."""
        if any(map(_on, devices)) and self._capturing:
            raise DeviceError("the host waits for the device while it captures")
        if any(map(_on, devices)):
            self.waits.append(_line())


def _on(device: torch.device | None) -> bool:
    """Return True for a CUDA device."""
    return device is not None and device.type == "cuda"


def _line() -> str:
    """Return the innermost line of this repository that is being executed."""
    frames = [f for f in traceback.extract_stack() if f.filename.startswith(_ROOT) and f.filename != __file__]
    # an environment inside the repository holds the dependencies
    frames = [f for f in frames if "site-packages" not in f.filename] or frames
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].line}"


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Return True if flash or memory-efficient attention computes this, and cuDNN does not.

    The rules are those of torch 2.13 (sdp_utils.cpp) for heads of a supported width: flash takes half precision without
    a mask, memory-efficient any precision with or without a mask, but no keys that several query heads share.
    """
    if torch.backends.cuda.cudnn_sdp_enabled():
        return False
    flash = attn_mask is None and q.dtype in (torch.float16, torch.bfloat16)
    return flash or (not enable_gqa and q.shape[1] == k.shape[1])


def _by_mask(func: Callable[..., Any], args: Any) -> bool:
    """Return True for indexing by a mask: the size of the result depends on values on the device."""
    if func not in _INDEXES or len(args) < 2:
        return False
    return any(isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1]))


def _meta(args: Any, kwargs: Any) -> bool:
    """Return True for a call with or for meta tensors: transformers builds a model of them and fills it afterwards."""
    devices = [x for x in (*args, kwargs.get("device")) if isinstance(x, str | torch.device)]
    return "meta" in map(str, devices) or any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs)))


class _Event:
    """An event, which records on the current device."""

    mode: PretendCuda

    def record(self) -> None:
        self.mode.recorded_under.add(self.mode.current)

    def synchronize(self) -> None:
        pass


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
    mode = PretendCuda()

    @contextlib.contextmanager
    def no_graph(graph: Any, pool: Any = None) -> Iterator[None]:
        mode.captured_under.add(mode.current)
        raise RuntimeError("this device is emulated")
        yield

    monkeypatch.setattr(torch.cuda, "Event", type("Event", (_Event,), {"mode": mode}))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", no_graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", mode.device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: mode.current)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (mode.free_bytes, 1 << 40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
    # a CUDA build of torch calls the driver in these, a CPU build does not
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda _: False)
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)  # the default
    try:
        with mode:
            yield mode
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)

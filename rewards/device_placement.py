"""Device of a reward that runs its own model: the policy's device by default."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any


class DeviceAware:
    """A reward function with a keyword `device`.

    A call that passes no device uses the device of the bound policy, or the CPU if no policy is bound.

    Args:
        function: takes `device`, the name of a torch device.
        device: default device of the calls.
    """

    def __init__(self, function: Callable[..., Any], device: str = "cpu") -> None:
        self._function = function
        self._device = device
        update_wrapper(self, function)

    def bind(self, policy: Any) -> DeviceAware:
        """Return the same function on the policy's device."""
        return DeviceAware(self._function, str(policy.device))

    def __call__(self, *args: Any, device: str | None = None, **columns: Any) -> Any:
        """Call the function."""
        return self._function(*args, device=device or self._device, **columns)

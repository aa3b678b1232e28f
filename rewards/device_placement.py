"""Where a reward's own model runs: on the policy's device, unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any


class Placed:
    """A reward function with a keyword `device`; unless that is given it is the policy's, without a policy the CPU.

    Args:
        function: takes `device`, the name of a torch device.
        device: where to run.
    """

    def __init__(self, function: Callable[..., Any], device: str = "cpu") -> None:
        self._function, self._device = function, device
        update_wrapper(self, function)

    def bind(self, policy: Any) -> Placed:
        """The same function on the policy's device."""
        return Placed(self._function, str(policy.device))

    def __call__(self, *args: Any, device: str | None = None, **columns: Any) -> Any:
        """Call the function."""
        return self._function(*args, device=device or self._device, **columns)

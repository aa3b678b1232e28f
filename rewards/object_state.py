"""The state of a reward that is an object: its owner, copies as plain values, and a description of its attributes."""

from __future__ import annotations

import base64
import functools
import inspect
from collections import deque
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rlalign.errors import UserError

_ARRAY = "__array__"  # marks the form of an array in a checkpoint
_TUPLE = "__tuple__"  # marks the form of a tuple in a checkpoint
_SHORT = 64  # elements of a container that are described one by one


def owner_of(function: Any) -> Any:
    """Return the object whose attributes a reward can change: a callable object, or that of a bound method; else None.

    Example:
        >>> owner_of(len) is None, owner_of([1].count)
        (True, [1])
    """
    if isinstance(function, functools.partial):
        return owner_of(function.func)
    if inspect.ismethod(function) or inspect.isbuiltin(function):
        owner = function.__self__
        return None if inspect.ismodule(owner) or isinstance(owner, type) else owner
    return None if inspect.isroutine(function) or isinstance(function, type) else function


def has_state_methods(owner: Any) -> bool:
    """Return whether an object has `state_dict` and `load_state_dict` of its own.

    Those of a torch module do not count: its weights are a fixed model, and copies of them at each call would be slow.
    """
    methods = [getattr(owner, name, None) for name in ("state_dict", "load_state_dict")]
    return all(callable(method) and not _of_torch(method) for method in methods)


def as_plain(value: Any, label: str = "state_dict of a reward") -> Any:
    """Return a deep copy of a state: dicts, lists, tuples, numbers, texts, booleans, None, arrays and tensors.

    Args:
        value: the state.
        label: for messages.

    Raises:
        UserError: a part has another type, or a dict has keys of another type than numbers, texts, booleans and None.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {_plain_key(key, label): as_plain(part, label) for key, part in value.items()}
    if isinstance(value, list):
        return [as_plain(part, label) for part in value]
    if isinstance(value, tuple):
        return tuple(as_plain(part, label) for part in value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.copy()
    if _is_tensor(value):
        return value.detach().cpu().clone()
    raise UserError(
        f"{label}: expected dicts, lists, tuples, numbers, texts, None, arrays and tensors, got "
        f"{type(value).__name__}; use list(...) or another of these"
    )


def _plain_key(key: Any, label: str) -> Any:
    key = key.item() if isinstance(key, np.generic) else key
    if key is None or isinstance(key, str | int | float | bool):
        return key
    raise UserError(
        f"{label}: expected keys that are texts, numbers, booleans or None, got the {type(key).__name__} {key!r:.60}; "
        "use list(d.items()) for a dict d with such keys"
    )


def _is_tensor(value: Any) -> bool:
    return _of_torch(type(value)) and hasattr(value, "detach")


def _of_torch(item: Any) -> bool:
    # by name: importing torch takes seconds, and most rewards do without it
    return str(getattr(item, "__module__", "")).partition(".")[0] == "torch"


def to_checkpoint(state: Any) -> Any:
    """Return a plain state with tuples and arrays in marked forms, since checkpoints hold JSON values and tensors."""
    if isinstance(state, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(state).tobytes()).decode()
        return {_ARRAY: [state.dtype.str, list(state.shape), data]}
    if isinstance(state, tuple):
        return {_TUPLE: [to_checkpoint(part) for part in state]}
    if isinstance(state, Mapping):
        return {key: to_checkpoint(part) for key, part in state.items()}
    return [to_checkpoint(part) for part in state] if isinstance(state, list) else state


def from_checkpoint(stored: Any) -> Any:
    """Return the plain state that `to_checkpoint` was given."""
    if isinstance(stored, Mapping):
        if _ARRAY in stored:
            dtype, shape, data = stored[_ARRAY]
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
        if _TUPLE in stored:
            return tuple(from_checkpoint(part) for part in stored[_TUPLE])
        return {key: from_checkpoint(part) for key, part in stored.items()}
    return [from_checkpoint(part) for part in stored] if isinstance(stored, list) else stored


def attributes_of(owner: Any, depth: int = 3) -> str:
    """Return a text that changes when an attribute of an object changes, without reading large ones.

    Numbers and texts are described by their values, short containers by their members, long ones by their length,
    arrays by their shape, tensors and models by their type, and other objects by their own attributes.

    Args:
        owner: the object.
        depth: levels of attributes and members to describe.
    """
    attributes = getattr(owner, "__dict__", {})
    return ",".join(f"{name}={_described(value, depth - 1)}" for name, value in attributes.items())


def _described(value: Any, depth: int) -> str:
    if value is None or isinstance(value, str | bytes | int | float | np.generic):
        return repr(value[:200] if isinstance(value, str | bytes) else value)
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}" + (repr(value.tolist()) if value.size <= _SHORT else "")
    if isinstance(value, Mapping | Sequence | Set | deque):
        if depth <= 0 or len(value) > _SHORT:
            return f"{name}[{len(value)}]"
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        return f"{name}({','.join(f'{key!r:.50}:{_described(item, depth - 1)}' for key, item in pairs)})"
    library = type(value).__module__.partition(".")[0] in ("torch", "transformers", "builtins", "re", "threading")
    library |= inspect.isroutine(value) or isinstance(value, type)
    return name if depth <= 0 or library else f"{name}({attributes_of(value, depth)})"

"""The process in which a reward function runs: reads requests from stdin, writes answers to stdout, dies at EOF.

Run as a script by `guard.py`. Imports the standard library alone, so that it starts in milliseconds; what the function
imports comes with the function. A frame is eight bytes of length (big-endian) and a pickle.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any, BinaryIO


def call(function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What a function returns; an async one is awaited (on a loop of its own), an iterator is read to its end."""
    returned = function(*args, **keywords)
    if inspect.iscoroutine(returned):
        with ThreadPoolExecutor(1) as thread:  # this thread may run a loop already, as in a notebook
            returned = thread.submit(asyncio.run, returned).result()
    return list(returned) if hasattr(returned, "__next__") else returned


def write(stream: BinaryIO, payload: bytes) -> None:
    """Send one frame."""
    stream.write(len(payload).to_bytes(8, "big"))
    stream.write(payload)
    stream.flush()


def read(stream: BinaryIO) -> bytes:
    """Receive one frame. Raises EOFError when the other side is gone."""
    size = int.from_bytes(_read_exactly(stream, 8), "big")
    return _read_exactly(stream, size)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def describe(error: BaseException) -> str:
    """An error in one line, with the innermost place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{traceback.format_exception_only(error)[-1].strip()}{place}"


def load(setup: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that a set-up names or carries (see `guard.setup_of`)."""
    sys.path[:] = setup["path"]
    if setup["named"] is None:
        try:
            return pickle.loads(setup["pickled"])  # type: ignore[no-any-return]  # whatever was pickled or named
        except ImportError:  # it refers to what is in a file that only the parent knew how to import
            _import_all(setup["modules"])
            return pickle.loads(setup["pickled"])  # type: ignore[no-any-return]  # whatever was pickled or named
    _import_all(setup["modules"])
    module, qualname = setup["named"]
    return attrgetter(qualname)(sys.modules[module])  # type: ignore[no-any-return]  # whatever was pickled or named


def _import_all(modules: Sequence[tuple[str, str]]) -> None:
    for name, file in modules:
        _import(name, file)


def _import(name: str, file: str) -> None:
    """Import a module as the parent did: by its name, or from its file under that name."""
    try:
        module = importlib.import_module(name)
        if os.path.realpath(module.__file__ or "") == os.path.realpath(file):
            return
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{file}' cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _receive(stream: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    """Read in a thread, so that the end of the parent is noticed even while the function hangs."""
    try:
        while True:
            frames.put(read(stream))
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)  # this worker leads its own group: whatever the function started goes too


def _answer(work: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps(("returned", work()))
    except BaseException as error:
        if "UserError" in (kind.__name__ for kind in type(error).__mro__):  # its module may not be imported here
            return pickle.dumps(("refused", str(error)))
        return pickle.dumps(("raised", describe(error), traceback.format_exc()))


def main() -> None:
    """Load one function, then answer requests until stdin ends."""
    # Keep the pipes to ourselves: what the function prints goes to stderr, what it reads is empty.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, frames), daemon=True).start()

    function: list[Callable[..., Any]] = []
    write(answers, _answer(lambda: function.append(load(pickle.loads(frames.get())))))
    while True:
        request = frames.get()
        write(answers, _answer(lambda r=request: call(function[0], (), pickle.loads(r))))  # type: ignore[misc]  # a default of a lambda has no type


if __name__ == "__main__":
    main()

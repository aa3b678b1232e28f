"""Program of the worker process that runs one reward function.

`guard.py` starts this file as a script, sends requests to its stdin, reads answers from its stdout, and kills it at the
timeout. The worker also exits at the end of its stdin. The file imports only the standard library, so that it starts in
milliseconds; the imports of the function come later. A frame is eight bytes of length (big-endian) and a pickle.
"""

from __future__ import annotations

import asyncio
import contextlib
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

MARK = "RLALIGN_WORKER"
"""Environment variable with a value of each worker's own, which the processes that it starts inherit."""
CLOSED = 74
"""Exit status of a worker that could not write its answer."""


def call(function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Return the result of a function; a coroutine is awaited on its own event loop, an iterator becomes a list."""
    returned = function(*args, **keywords)
    if inspect.iscoroutine(returned):
        # A new thread, because this one may already run an event loop, as in a notebook.
        with ThreadPoolExecutor(1) as thread:
            returned = thread.submit(asyncio.run, returned).result()
    return list(returned) if hasattr(returned, "__next__") else returned


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """Write one frame."""
    stream.write(len(payload).to_bytes(8, "big"))
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes:
    """Return the payload of the next frame.

    Raises:
        EOFError: the other side has closed the stream.
    """
    size = int.from_bytes(_read_exactly(stream, 8), "big")
    return _read_exactly(stream, size)


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def describe_error(error: BaseException) -> str:
    """Return an error in one line, with the file and line of its innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{traceback.format_exception_only(error)[-1].strip()}{place}"


def load_function(setup: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function that a set-up names or carries (see `guard.setup_of`)."""
    sys.path[:] = setup["path"]
    if setup["named"] is None:
        try:
            return pickle.loads(setup["pickled"])  # type: ignore[no-any-return]  # the type of the pickled function
        except ImportError:  # it refers to a module that the parent imported from a file outside of sys.path
            _import_all(setup["modules"])
            return pickle.loads(setup["pickled"])  # type: ignore[no-any-return]  # the type of the pickled function
    _import_all(setup["modules"])
    module, qualname = setup["named"]
    return attrgetter(qualname)(sys.modules[module])  # type: ignore[no-any-return]  # the type of the named function


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
        # Only the module itself or a package above it may be missing; a missing dependency is a real error.
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"expected a Python file, got '{file}'; use a file that Python can import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def kill_tree(pid: int, mark: str) -> None:
    """Kill a worker with all processes that it started, also those that left its process group by `setsid`.

    They are the descendants of the worker, and the processes whose environment holds its mark: a daemon is not a
    descendant, because its parent has ended. Each is stopped first, so that none starts another one in the meantime.
    Outside of Linux only the process group is killed, as there is no /proc.

    Args:
        pid: process id of the worker, which leads its process group.
        mark: the worker's value of the environment variable MARK; empty: only descendants are found.
    """
    stopped: list[int] = []
    while members := [member for member in _members(pid, mark) if member not in stopped]:
        for member in members:
            _send(member, signal.SIGSTOP)
        stopped += members
    for member in stopped:
        _send(member, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _members(pid: int, mark: str) -> list[int]:
    """Return the processes of a worker, without the worker and without this process."""
    entry = f"{MARK}={mark}".encode()
    parents: dict[int, int] = {}
    members: set[int] = set()
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for number in (int(name) for name in names if name.isdigit()):
        # A process may end between two reads, and one of another user cannot be read.
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{number}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state == b"Z":  # it has ended
                continue
            parents[number] = int(parent)
            with open(f"/proc/{number}/environ", "rb") as file:
                if mark and entry in file.read().split(b"\0"):
                    members.add(number)
    members.add(pid)
    size = 0
    while len(members) > size:
        size = len(members)
        members |= {child for child, parent in parents.items() if parent in members}
    return sorted(members - {pid, os.getpid()})


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _receive(stream: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    """Read requests in a thread, so that the end of the parent is noticed even while the function hangs."""
    try:
        while True:
            frames.put(read_frame(stream))
    except (EOFError, OSError):
        kill_tree(os.getpid(), os.environ.get(MARK, ""))  # which ends with the group that this worker leads


def _answer(work: Callable[[], Any]) -> bytes:
    """Return the pickled result of a call: ("returned", value), ("refused", message) or ("raised", line, traceback)."""
    try:
        return pickle.dumps(("returned", work()))
    except BaseException as error:
        # Compare names rather than classes: this script does not import rlalign.
        if "UserError" in (kind.__name__ for kind in type(error).__mro__):
            return pickle.dumps(("refused", str(error)))
        return pickle.dumps(("raised", describe_error(error), traceback.format_exc()))


def main() -> None:
    """Load one function, then answer requests until stdin ends."""
    # Move the pipes to private descriptors: the function's prints go to stderr, and its stdin is empty.
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, frames), daemon=True).start()

    function: list[Callable[..., Any]] = []
    try:
        write_frame(answers, _answer(lambda: function.append(load_function(pickle.loads(frames.get())))))
        while True:
            request = frames.get()
            write_frame(answers, _answer(lambda r=request: call(function[0], (), pickle.loads(r))))  # type: ignore[misc]  # a default of a lambda has no type
    except OSError:  # the parent is gone, or the function closed the descriptor of the answers
        os._exit(CLOSED)


if __name__ == "__main__":
    main()

"""Running a reward function so that nothing it does can stop or stall the run unnoticed.

A function with a timeout runs in a worker process of its own that stays up between calls. At the timeout the whole
process group is killed: neither a signal (main thread only) nor a future's timeout (kills nothing) would do. A worker
whose parent was killed sees the end of its stdin (PR_SET_PDEATHSIG would fire when the starting *thread* ends).
Separate processes guard against accidents; they are no security boundary.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import cloudpickle

from rlalign.errors import RewardError, UserError
from rlalign.rewards import worker_process as worker
from rlalign.rewards.function import RewardFunction

START_LIMIT_S = 300.0  # for the imports of the function's module, which its timeout does not cover

FailureKind = Literal["raised", "timeout", "died"]


class CallFailed(Exception):
    """One attempt that gave no result: what happened, in one line, and the function's traceback if there is one."""

    def __init__(self, kind: FailureKind, detail: str, trace: str = "") -> None:
        super().__init__(detail)
        self.kind, self.detail, self.trace = kind, detail, trace


class Runner(Protocol):
    """Runs one function, once per call."""

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """What the function returns. Raises CallFailed."""
        ...

    def close(self) -> None:
        """Free what is held; the next `run` gets it again."""
        ...


class Guard:
    """One reward's runner with its retries and its counts of failed attempts. Safe to call from any thread.

    Attributes:
        counts: failed attempts by kind: "raised", "timeout", "died".
    """

    def __init__(self, reward: RewardFunction) -> None:
        self.reward = reward
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._runner: Runner = InProcess(reward) if reward.timeout_s is None else InWorker(reward, reward.timeout_s)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """What the function returns, trying 1 + retries times. Raises the last CallFailed."""
        with self._lock:
            for attempt in range(self.reward.retries + 1):
                try:
                    return self._runner.run(arguments)
                except CallFailed as failure:
                    self.counts[failure.kind] += 1
                    if attempt == self.reward.retries:
                        raise
            raise AssertionError("unreachable")

    def close(self) -> None:
        """Kill the worker, if there is one."""
        with self._lock:
            self._runner.close()


class InProcess:
    """Calls the function here: no process, no copy of the arguments, no timeout."""

    def __init__(self, reward: RewardFunction) -> None:
        self._function = reward.function

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """See `Runner`."""
        try:
            return worker.call(self._function, (), arguments)
        except UserError:  # a wrong parameter: no retry mends that
            raise
        except (Exception, SystemExit) as error:
            raise CallFailed("raised", worker.describe(error), traceback.format_exc()) from error

    def close(self) -> None:
        """Nothing to free."""


class InWorker:
    """Calls the function in a process that is killed with all its children when a call takes too long.

    The function sees copies: what it changes in its arguments (an episode's `state`) stays in the worker.
    """

    def __init__(self, reward: RewardFunction, timeout_s: float) -> None:
        self._reward, self._timeout_s = reward, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: Callable[[], Any] = _nothing

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None when none is up."""
        return None if self._process is None else self._process.pid

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """See `Runner`. Raises UserError when the function or its arguments cannot be sent to another process."""
        request = self._pickled(lambda: dict(arguments), "its arguments")
        if self._process is not None and _has_ended(self._process):
            self.close()  # it died between two calls, which is no failure of this one
        if self._process is None:
            self._start()
        return self._exchange(request, self._timeout_s)

    def close(self) -> None:
        """Kill the worker and whatever it started."""
        self._finalizer()
        self._process = None

    def _start(self) -> None:
        setup = self._pickled(lambda: setup_of(self._reward.function), "the function")
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a group of its own: killable as a whole, and Ctrl-C is ours to handle
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)
        try:
            self._exchange(setup, START_LIMIT_S)
        except CallFailed as failure:
            self.close()
            error = RewardError(f"reward '{self._reward.name}' cannot be loaded in its worker: {failure.detail}")
            error.add_note(failure.trace)
            raise error from None

    def _exchange(self, request: bytes, limit_s: float) -> Any:
        """Send a frame and wait for the answer; whatever goes wrong leaves no worker behind."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(limit_s, _stop_late, (process, late))
        timer.daemon = True
        timer.start()
        try:
            worker.write(process.stdin, request)  # type: ignore[arg-type]  # a pipe is a raw stream
            answer = worker.read(process.stdout)  # type: ignore[arg-type]  # a pipe is a raw stream
        except (EOFError, OSError):
            _disarm(timer)
            self.close()
            if late.is_set():
                raise CallFailed("timeout", f"took longer than {limit_s:g} s and was killed") from None
            raise CallFailed("died", f"its worker process died ({_ending(process.returncode)})") from None
        except BaseException:  # Ctrl-C: an answer to an abandoned request must never be read as that to the next
            _disarm(timer)
            self.close()
            raise
        _disarm(timer)
        if late.is_set():  # the answer came just before the kill
            self.close()
        return self._unpickled(answer)

    def _unpickled(self, answer: bytes) -> Any:
        try:
            kind, *content = pickle.loads(answer)
        except Exception as error:
            raise CallFailed("raised", f"its result cannot be read here: {worker.describe(error)}") from error
        if kind == "refused":
            raise UserError(content[0])
        if kind == "raised":
            raise CallFailed("raised", *content)
        return content[0]

    def _pickled(self, content: Callable[[], Mapping[str, Any]], what: str) -> bytes:
        try:
            return cloudpickle.dumps(content())  # type: ignore[no-any-return]  # untyped in cloudpickle
        except Exception as error:
            raise UserError(
                f"reward '{self._reward.name}': {what} cannot be sent to a worker process ({error}): "
                "make what it holds in the function itself, or run it in-process with timeout_s=None"
            ) from error


def setup_of(function: Callable[..., Any]) -> dict[str, Any]:
    """How a worker gets a function: by name where its module can be imported again, else by value.

    A script or notebook (`__main__`) is never imported again, because that would run it.
    """
    named = _named(function)
    return {
        "path": [entry or os.getcwd() for entry in sys.path],
        "modules": _modules(function),
        "named": named,
        "pickled": b"" if named else cloudpickle.dumps(function),
    }


def _modules(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """Names and files of the modules that the function, its type or what it wraps come from."""
    parts = [function, type(function), getattr(function, "func", None), getattr(function, "__self__", None)]
    names = {getattr(part, "__module__", None) for part in parts} - {None, "__main__"}
    return [(n, f) for n in sorted(map(str, names)) if (f := getattr(sys.modules.get(n), "__file__", None))]


def _named(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Module and qualified name under which the function, or the reward made of it, is found; None for a closure."""
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module in (None, "__main__") or qualname is None or not hasattr(sys.modules.get(module), "__file__"):
        return None
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, RewardFunction) and found.function is function:
        return module, f"{qualname}.function"
    return (module, qualname) if found is function else None


def _stop_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    _signal_group(process)


def _disarm(timer: threading.Timer) -> None:
    timer.cancel()
    timer.join()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended, without reaping it: its group's id stays ours until the kill."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]  # both are pipes


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"


def _nothing() -> None:
    """The finalizer of no process."""

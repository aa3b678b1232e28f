"""Timeout, kill and retries of reward functions: no function can stop or stall the run unnoticed.

A function with a timeout runs in a worker process of its own (`InWorker`), which stays up between calls. At the timeout
`_kill_at_timeout` kills the whole process group. A signal would work in the main thread only, and the timeout of a
future kills nothing. The worker's own program is `worker_process.py`. A worker whose parent was killed reads the end of
its stdin and exits (PR_SET_PDEATHSIG would fire when the starting *thread* ends).

Separate processes guard against accidents. They are not a security boundary.
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

START_LIMIT_S = 300.0  # for the imports of the function's module, which the function's timeout does not cover

FailureKind = Literal["raised", "timeout", "died"]


class CallFailed(Exception):
    """One attempt without a result.

    Args:
        kind: how the attempt failed.
        detail: the cause in one line.
        trace: the function's traceback, or empty.
    """

    def __init__(self, kind: FailureKind, detail: str, trace: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.trace = trace


class Runner(Protocol):
    """Interface of a runner: executes one function, once per call."""

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Return the result of the function.

        Raises:
            CallFailed: the attempt gave no result.
        """
        ...

    def close(self) -> None:
        """Free all resources. The next `run` acquires them again."""
        ...


class Guard:
    """One reward's runner with its retries and its counts of failed attempts. Thread-safe.

    Attributes:
        counts: failed attempts by kind: "raised", "timeout", "died".
    """

    def __init__(self, reward: RewardFunction) -> None:
        self.reward = reward
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._runner: Runner = InProcess(reward) if reward.timeout_s is None else InWorker(reward, reward.timeout_s)

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """Return the result of the function after at most 1 + retries attempts.

        Raises:
            CallFailed: the last attempt failed too.
        """
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
        """Kill the worker, if one is running."""
        with self._lock:
            self._runner.close()


class InProcess:
    """Runner that calls the function in this process: no copy of the arguments, no timeout."""

    def __init__(self, reward: RewardFunction) -> None:
        self._function = reward.function

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function. See `Runner`."""
        try:
            return worker.call(self._function, (), arguments)
        except UserError:  # a wrong parameter stays wrong at a retry
            raise
        except (Exception, SystemExit) as error:
            raise CallFailed("raised", worker.describe_error(error), traceback.format_exc()) from error

    def close(self) -> None:
        """Do nothing: no resource is held."""


class InWorker:
    """Runner that calls the function in a worker process, and kills it with all its children at the timeout.

    The function receives copies: its changes to its arguments (an episode's `state`) stay in the worker.
    """

    def __init__(self, reward: RewardFunction, timeout_s: float) -> None:
        self._reward = reward
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: Callable[[], Any] = _no_process

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None if none is running."""
        return None if self._process is None else self._process.pid

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function in the worker. See `Runner`.

        Raises:
            UserError: the function or its arguments cannot be pickled.
        """
        request = self._pickled(lambda: dict(arguments), "arguments")
        if self._process is not None and _has_ended(self._process):
            self.close()  # the worker died between two calls, which does not count as a failure of this call
        if self._process is None:
            self._start()
        return self._exchange(request, self._timeout_s)

    def close(self) -> None:
        """Kill the worker and all processes that it started."""
        self._finalizer()
        self._process = None

    def _start(self) -> None:
        setup = self._pickled(lambda: setup_of(self._reward.function), "a function")
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # its own process group: killed as a whole, and not reached by Ctrl-C
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)
        try:
            self._exchange(setup, START_LIMIT_S)
        except CallFailed as failure:
            self.close()
            error = RewardError(
                f"reward '{self._reward.name}': expected a function that its worker can load, got {failure.detail}; "
                "use a module that imports in a new process, or timeout_s=None"
            )
            error.add_note(failure.trace)
            raise error from None

    def _exchange(self, request: bytes, limit_s: float) -> Any:
        """Send a request and return its answer. After any failure no worker is left running."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()
        timer = threading.Timer(limit_s, _kill_at_timeout, (process, timed_out))
        timer.daemon = True
        timer.start()
        try:
            worker.write_frame(process.stdin, request)  # type: ignore[arg-type]  # a pipe is a raw stream
            answer = worker.read_frame(process.stdout)  # type: ignore[arg-type]  # a pipe is a raw stream
        except (EOFError, OSError):
            # The kill at the timeout closes the pipes, which ends the read above.
            _stop(timer)
            self.close()
            if timed_out.is_set():
                raise CallFailed("timeout", f"took longer than {limit_s:g} s and was killed") from None
            raise CallFailed("died", f"its worker process died ({_exit_cause(process.returncode)})") from None
        except BaseException:  # Ctrl-C: the next request must not read the answer to an abandoned one
            _stop(timer)
            self.close()
            raise
        _stop(timer)
        if timed_out.is_set():  # the answer arrived just before the kill, so it is valid and the worker is gone
            self.close()
        return self._unpickled(answer)

    def _unpickled(self, answer: bytes) -> Any:
        try:
            kind, *content = pickle.loads(answer)
        except Exception as error:
            raise CallFailed(
                "raised", f"its result cannot be unpickled here: {worker.describe_error(error)}"
            ) from error
        if kind == "refused":
            raise UserError(content[0])
        if kind == "raised":
            raise CallFailed("raised", *content)
        return content[0]

    def _pickled(self, content: Callable[[], Mapping[str, Any]], label: str) -> bytes:
        try:
            return cloudpickle.dumps(content())  # type: ignore[no-any-return]  # untyped in cloudpickle
        except Exception as error:
            raise UserError(
                f"reward '{self._reward.name}': expected {label} that can be pickled for a worker process, "
                f"got {type(error).__name__}: {error}; use timeout_s=None to run in-process, "
                "or create the object inside the function"
            ) from error


def setup_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the first request to a worker: a function by name if its module can be imported again, else by value.

    A script or notebook (`__main__`) is never imported again, because the import would run it.
    """
    named = _importable_name(function)
    return {
        "path": [entry or os.getcwd() for entry in sys.path],
        "modules": _modules(function),
        "named": named,
        "pickled": b"" if named else cloudpickle.dumps(function),
    }


def _modules(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """Return names and files of the modules that define the function, its type, or the function that it wraps."""
    parts = [function, type(function), getattr(function, "func", None), getattr(function, "__self__", None)]
    names = {getattr(part, "__module__", None) for part in parts} - {None, "__main__"}
    modules = []
    for name in sorted(map(str, names)):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            modules.append((name, file))
    return modules


def _importable_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Return module and qualified name of the function, or of the reward that wraps it; None for a closure."""
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if module in (None, "__main__") or qualname is None or not hasattr(sys.modules.get(module), "__file__"):
        return None
    target: Any = sys.modules[module]
    for part in qualname.split("."):
        target = getattr(target, part, None)
    # After `@reward` the name refers to the RewardFunction, which holds the plain function.
    if isinstance(target, RewardFunction) and target.function is function:
        return module, f"{qualname}.function"
    return (module, qualname) if target is function else None


def _kill_at_timeout(process: subprocess.Popen[bytes], timed_out: threading.Event) -> None:
    timed_out.set()  # before the kill, so that the reader of the closed pipe finds the cause
    _kill_group(process)


def _stop(timer: threading.Timer) -> None:
    """Cancel a timer and wait until it can no longer fire."""
    timer.cancel()
    timer.join()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a child has ended, without reaping it: its group id stays reserved until the kill."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, reap the worker and close its pipes."""
    _kill_group(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]  # both are pipes


def _exit_cause(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"


def _no_process() -> None:
    """Finalizer of a runner without a process."""

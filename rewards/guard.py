"""Timeout, kill and retries of reward functions: no function can stop or stall the run unnoticed.

A function with a timeout runs in a worker process of its own (`InWorker`), which stays up between calls. At the timeout
`kill_tree` kills it with all processes that it started. A signal would work in the main thread only, and the timeout of
a future kills nothing. The worker's own program is `worker_process.py`, and `worker_pipe.py` exchanges requests and
answers with it. A worker whose parent was killed reads the end of its stdin and exits (PR_SET_PDEATHSIG would fire when
the starting *thread* ends).

Separate processes guard against accidents. They are not a security boundary.
"""

from __future__ import annotations

import functools
import os
import pickle
import secrets
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
from rlalign.rewards.process_state import Descriptors, Interrupts
from rlalign.rewards.worker_pipe import WorkerPipe

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
        self._name = reward.name
        self._function = reward.function

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function. See `Runner`.

        Raises:
            RewardError: the function closed descriptors that cannot be opened again.
        """
        interrupts = Interrupts()
        descriptors = Descriptors()
        failure: CallFailed | None = None
        returned = None
        try:
            with interrupts:
                returned = worker.call(self._function, (), arguments)
        except UserError:  # a wrong parameter stays wrong at a retry
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and interrupts.received:  # Ctrl-C, not an error of the function
                raise
            failure = CallFailed("raised", worker.describe_error(error), traceback.format_exc())
            failure.__cause__ = error
        finally:
            closed = descriptors.restore()
        if closed:
            detail = f"it closed {closed} of this process; use timeout_s=30, so that it has a process of its own"
            if descriptors.lost:  # the files of the run are closed too, so it cannot continue
                raise RewardError(f"reward '{self._name}' failed: {detail}")
            failure = CallFailed("raised", detail)
        if failure is not None:
            raise failure
        return returned

    def close(self) -> None:
        """Do nothing: no resource is held."""


class InWorker:
    """Runner that calls the function in a worker process, and kills it with all its children at the timeout.

    The function receives copies: its changes to its arguments (an episode's `state`) stay in the worker.
    """

    def __init__(self, reward: RewardFunction, timeout_s: float) -> None:
        self._reward = reward
        self._timeout_s = timeout_s
        self._worker: _Worker | None = None
        self._finalizer: Callable[[], Any] = _no_process

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None if none is running."""
        return None if self._worker is None else self._worker.process.pid

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function in the worker. See `Runner`.

        Raises:
            UserError: the function or its arguments cannot be pickled.
        """
        request = self._pickled(lambda: dict(arguments), "arguments")
        if self._worker is not None and self._worker.pipe.has_ended():
            self.close()  # the worker died between two calls, which does not count as a failure of this call
        if self._worker is None:
            self._start()
        return self._exchange(request, self._timeout_s)

    def close(self) -> None:
        """Kill the worker and all processes that it started."""
        self._finalizer()
        self._worker = None

    def _start(self) -> None:
        """Start a worker that has loaded the function.

        Raises:
            CallFailed: the worker was killed, or took too long.
            RewardError: the function cannot be loaded in a new process.
        """
        setup = self._pickled(lambda: setup_of(self._reward.function), "a function")
        self._worker = _Worker()
        self._finalizer = weakref.finalize(self, self._worker.kill)
        try:
            self._exchange(setup, START_LIMIT_S)
        except CallFailed as failure:
            self.close()
            if failure.kind != "raised":  # from outside, or for want of memory: a retry may succeed
                raise
            error = RewardError(
                f"reward '{self._reward.name}': expected a function that its worker can load, got {failure.detail}; "
                "use a module that imports in a new process, or timeout_s=None"
            )
            error.add_note(failure.trace)
            raise error from None

    def _exchange(self, request: bytes, limit_s: float) -> Any:
        """Send a request and return its answer. After any failure no worker is left running."""
        worker_ = self._worker
        assert worker_ is not None
        try:
            answer = worker_.pipe.exchange(request, limit_s)
        except TimeoutError:
            self.close()
            raise CallFailed("timeout", f"took longer than {limit_s:g} s and was killed") from None
        except (EOFError, OSError):
            self.close()
            raise CallFailed("died", f"its worker process died ({_exit_cause(worker_.process.returncode)})") from None
        except BaseException:  # Ctrl-C: the next request must not read the answer to an abandoned one
            self.close()
            raise
        return self._unpickled(answer)

    def _unpickled(self, answer: bytes) -> Any:
        try:
            kind, *content = pickle.loads(answer)
        except (Exception, SystemExit) as error:
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


class _Worker:
    """A running worker process."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self.process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, worker.MARK: self._mark},
            start_new_session=True,  # its own process group: killed as a whole, and not reached by Ctrl-C
        )
        self.pipe = WorkerPipe(self.process)

    def kill(self) -> None:
        """Kill the worker and all processes that it started, reap it and close its pipes."""
        worker.kill_tree(self.process.pid, self._mark)
        self.process.wait()
        self.pipe.close()


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
    """Return names and files of the modules that define a function, its type, and the functions that it wraps.

    A `functools.partial`, a bound method and an `ObservedCall` wrap a function or an object, to any depth.
    """
    parts: list[Any] = []
    pending: list[Any] = [function]
    while pending:
        part = pending.pop()
        if part is None or any(part is known for known in parts):
            continue
        parts += [part, type(part)]
        pending += [getattr(part, "func", None), getattr(part, "__self__", None)]
        if isinstance(part, functools.partial):
            pending += [*part.args, *part.keywords.values()]
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


def _exit_cause(returncode: int | None) -> str:
    if returncode == worker.CLOSED:
        return "the function closed the pipe of its answers"
    if returncode is not None and returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"


def _no_process() -> None:
    """Finalizer of a runner without a process."""

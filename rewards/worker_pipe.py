"""Exchange of one request and one answer with a worker process, within a time limit that no process can defeat."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time

_CHUNK = 1 << 20  # bytes per read or write, more than a pipe holds
_POLL_S = 0.05  # seconds between two polls of a process whose end is not an event, as on macOS
_HEADER = 8  # bytes of a frame's length


class WorkerPipe:
    """Pipes to a worker process and the event of its end.

    The end of the pipe is not the end of the worker: a daemon that the worker started inherits the pipe and keeps it
    open. So each wait has a deadline of its own, and ends with the process too.

    Args:
        process: the worker, with stdin and stdout as unbuffered pipes.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._end = _open_end(process.pid)

    def exchange(self, request: bytes, limit_s: float) -> bytes:
        """Write a request and return its answer.

        Args:
            request: payload of the request's frame (see `worker_process.write_frame`).
            limit_s: seconds until the answer must be complete.

        Raises:
            TimeoutError: the answer was not complete in time.
            EOFError: the worker ended, or closed its pipe, before the answer was complete.
        """
        deadline = time.monotonic() + limit_s
        unsent = memoryview(len(request).to_bytes(_HEADER, "big") + request)
        answer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._stdin, selectors.EVENT_WRITE)
            if self._end is not None:
                selector.register(self._end, selectors.EVENT_READ)
            while not _is_complete(answer):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError
                wait = remaining if self._end is not None else min(remaining, _POLL_S)
                ready = {key.fd for key, _ in selector.select(wait)}
                ended = self._end in ready if self._end is not None else self.has_ended()
                if self._stdin in ready:
                    unsent = self._send(unsent)
                    if not unsent:
                        selector.unregister(self._stdin)
                # A worker that ended may have written its answer before.
                if not self._receive(answer, until_empty=ended) or (ended and not _is_complete(answer)):
                    raise EOFError
        return bytes(answer[_HEADER:])

    def has_ended(self) -> bool:
        """Return whether the worker has ended, without reaping it: its group id stays reserved until the kill.

        A system without `waitid`, such as macOS before Python 3.13, reaps it.
        """
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """Close the pipes; without effect on the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes
        if self._end is not None:
            with contextlib.suppress(OSError):
                os.close(self._end)
            self._end = None

    def _send(self, unsent: memoryview) -> memoryview:
        """Write a part of the request and return the rest; nothing is left if the worker does not read any more."""
        try:
            return unsent[os.write(self._stdin, unsent[:_CHUNK]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # the read below finds the end of the worker
            return memoryview(b"")

    def _receive(self, answer: bytearray, *, until_empty: bool) -> bool:
        """Append to the answer what the pipe holds; return False at its end."""
        while not _is_complete(answer):
            try:
                data = os.read(self._stdout, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            answer += data
            if not until_empty:
                return True
        return True


def _is_complete(answer: bytearray) -> bool:
    return len(answer) >= _HEADER and len(answer) >= _HEADER + int.from_bytes(answer[:_HEADER], "big")


def _open_end(pid: int) -> int | None:
    """Return a descriptor that is readable once a process has ended; None if the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None

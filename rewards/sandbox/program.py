"""Program of the process that runs a model's code: a supervisor, and below it the isolated interpreter.

`run.py` starts this file as a script with a job on its stdin, and reads one JSON object from its stdout. The supervisor
shares no memory with the code, so the code cannot change the limits or the kind of the report. The number of passed
tests comes from the interpreter that runs the code, which can forge it, but not beyond the number of tests.

The file imports only the standard library and `isolation.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.rewards.sandbox import isolation
else:  # this script has no package around it
    _spec = importlib.util.spec_from_file_location("isolation", os.path.join(os.path.dirname(__file__), "isolation.py"))
    isolation = importlib.util.module_from_spec(_spec)
    sys.modules["isolation"] = isolation
    _spec.loader.exec_module(isolation)

_READY = b"ready\n"
_START_LIMIT_S = 60.0  # for the set-up of the isolation on a busy machine
_MAX_REPORT = 256  # bytes that are read of the code's report
_MAX_FILE = 1 << 20  # bytes per file
_FOLDER_MB = 64  # all files together, if they lie in memory
_MAX_FILES = 32  # open at once


def main() -> None:
    """Read a job, run it and write the report: {"passed": n} or {"refused": reason}."""
    job = json.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    namespaces = isolation.enter_namespaces() if job["namespaces"] else isolation.Namespaces(pids=False, mounts=False)
    reader, writer = os.pipe()
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        # In a PID namespace the parent's id is 0.
        isolation.die_with_parent(0 if namespaces.pids else supervisor)
        os.close(report)
        os.close(reader)
        _first_process(job, writer, namespaces)
    os.close(writer)
    try:
        answer = _supervise(job, reader)
    finally:
        os.kill(child, signal.SIGKILL)  # with it, its PID namespace ends
        os.waitpid(child, 0)
    os.write(report, json.dumps(answer).encode())
    os._exit(0)


def _supervise(job: Mapping[str, Any], reader: int) -> dict[str, Any]:
    """Return the report of the program: at most _MAX_REPORT bytes, and until its time is over."""
    first = _read(reader, len(_READY), time.monotonic() + _START_LIMIT_S)
    if first != _READY:  # written before any code of the model runs
        reason = first + _read(reader, _MAX_REPORT, time.monotonic() + 1.0)
        return {"refused": reason.decode(errors="replace") or "the process ended before the program"}
    report = _read(reader, _MAX_REPORT, time.monotonic() + job["wall_s"])
    nonce, _, passed = report.decode(errors="replace").partition(" ")
    number = int(passed) if len(passed) < 9 and passed.isascii() and passed.isdigit() else 0
    known = nonce == job["nonce"]  # else the program ended early, or forged a report
    return {"passed": min(number, len(job["tests"])) if known else 0}


def _read(reader: int, size: int, deadline: float) -> bytes:
    """Return up to `size` bytes, fewer at the end of the pipe or at the deadline."""
    data = b""
    while len(data) < size:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([reader], [], [], remaining)[0]:
            break
        part = os.read(reader, size - len(data))
        if not part:
            break
        data += part
    return data


def _first_process(job: dict[str, Any], writer: int, namespaces: isolation.Namespaces) -> None:
    """Run the program; in a PID namespace as a child, because the first process there receives no signals."""
    if not namespaces.pids:
        _isolated(job, writer, namespaces)
    program = os.fork()
    if program == 0:
        _isolated(job, writer, namespaces)
    os.close(writer)
    # If the supervisor was killed before it became this process's parent, nothing else ends the namespace.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(int(_START_LIMIT_S + job["wall_s"]) + 1)
    while os.wait()[0] != program:  # reap the processes that lost their parent
        pass
    os._exit(0)


def _isolated(job: dict[str, Any], writer: int, namespaces: isolation.Namespaces) -> None:
    """Isolate this process for good, then run the program in it."""
    folder = os.getcwd()
    limits = {
        "CPU": job["seconds"], "AS": job["memory"], "FSIZE": _MAX_FILE, "NOFILE": _MAX_FILES, "CORE": 0,
    }  # fmt: skip
    if namespaces.pids:
        # Counts the processes of the real user in the user namespace.
        limits["NPROC"] = job["processes"]
    try:
        in_memory = namespaces.mounts and isolation.mount_folder(folder, _FOLDER_MB)
        os.chdir(folder)  # into the file system that is mounted there
        writable = [folder, "/dev/shm"] if in_memory and os.path.isdir("/dev/shm") else [folder]
        isolation.drop_capabilities()
        isolation.restrict_files(writable, read_only_mounts=in_memory)
        isolation.restrict_system_calls(network=job["network"], processes=namespaces.pids, attributes=in_memory)
        for name, most in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    except (isolation.UnavailableError, OSError, ValueError) as error:
        os.write(writer, str(error).encode())
        os._exit(0)
    os.write(writer, _READY)
    _run(job, writer)


def _run(job: dict[str, Any], writer: int) -> None:
    """Execute the code and its tests, and report the nonce and the number of passed tests."""
    # the namespace of the code does not hold the nonce, by which the supervisor recognizes the report
    nonce = job.pop("nonce")
    del sys.modules["isolation"]
    passed = 0
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(job["code"], "completion", "exec"), space)
        for test in job["tests"]:
            try:
                exec(compile(test, "test", "exec"), space)
                passed += 1
            except Exception:
                pass
    except BaseException:
        pass
    os.write(writer, f"{nonce} {passed}".encode())
    os._exit(0)


if __name__ == "__main__":
    main()

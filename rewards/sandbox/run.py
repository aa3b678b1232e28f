"""Start of one isolated program, and its report."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from rlalign.rewards.sandbox import program
from rlalign.rewards.sandbox.isolation import UnavailableError

_GRACE_S = 5.0  # seconds beyond the limit of processor time, for a program that waits
_MARGIN_S = 90.0  # more than the supervisor takes for its start and the end of the program
_MAX_PROCESSES = 64


@dataclass(frozen=True)
class Limits:
    """Limits of a program.

    Attributes:
        seconds: processor time. The wall-clock limit is 5 seconds more.
        memory_mb: address space in MiB.
        network: leave the network reachable.
        namespaces: use namespaces if the system allows them.
    """

    seconds: int
    memory_mb: int
    network: bool = False
    namespaces: bool = True


def count_passed(code: str, tests: Sequence[str], limits: Limits) -> int | None:
    """Run code and then its tests in a new, isolated interpreter; return the number of tests that pass.

    Args:
        code: Python source.
        tests: Python statements.
        limits: of the program.

    Returns:
        From 0 to the number of tests. 0 if the code raises, ends early, or is killed at a limit. None if the supervisor
        was killed from outside.

    Raises:
        UnavailableError: the system lacks a protection.
    """
    if sys.platform != "linux":
        raise UnavailableError(f"{sys.platform}, which has no Landlock and seccomp")
    wall_s = limits.seconds + _GRACE_S
    job = {
        "code": code,
        "tests": list(tests),
        "seconds": limits.seconds,
        "wall_s": wall_s,
        "memory": limits.memory_mb << 20,
        "processes": _MAX_PROCESSES,
        "network": limits.network,
        "namespaces": limits.namespaces,
        "nonce": secrets.token_hex(16),
    }
    folder = tempfile.mkdtemp(prefix="rlalign-code-")
    try:
        output = _supervised(json.dumps(job).encode(), folder, wall_s + _MARGIN_S)
    finally:
        _remove(folder)
    if not output:
        return None
    report = json.loads(output)
    if "refused" in report:
        raise UnavailableError(report["refused"])
    return int(report["passed"])


def _supervised(request: bytes, folder: str, limit_s: float) -> bytes:
    """Return the report of the supervisor, whose length is bounded; empty if it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-I", program.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"HOME": folder, "TMPDIR": folder, "PATH": os.defpath},
        start_new_session=True,
    )
    try:
        return process.communicate(request, timeout=limit_s)[0]
    except subprocess.TimeoutExpired:
        return b""
    finally:
        process.send_signal(signal.SIGKILL)  # without effect if it has ended; the program dies with it
        process.wait()


def _remove(folder: str) -> None:
    """Delete the program's folder, however deep its folders are nested.

    `shutil.rmtree` and `rm` need a descriptor, a stack frame or the whole path for each level.
    """
    with contextlib.suppress(OSError):  # a folder in /tmp that remains harms nothing
        current = os.open(folder, os.O_DIRECTORY)
        names: list[str] = []  # from the folder down to the current one
        try:
            while True:
                below = _delete_files(current)
                if below:
                    os.chmod(below, 0o700, dir_fd=current)
                    names.append(below)
                    current = _moved(current, below)
                elif names:
                    current = _moved(current, "..")
                    os.rmdir(names.pop(), dir_fd=current)
                else:
                    break
        finally:
            os.close(current)
        os.rmdir(folder)


def _delete_files(directory: int) -> str:
    """Delete the files of an open directory up to its first subdirectory; return the name of that, or nothing."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
    return ""


def _moved(directory: int, name: str) -> int:
    """Open a directory relative to another one, and close that."""
    opened = os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    os.close(directory)
    return opened

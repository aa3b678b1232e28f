"""A reward for code that passes tests: the completion's Python runs, in a process of its own, with limits.

Not a security boundary. The limits stop accidents: endless loops, full disks, fork bombs, a call home. Code that wants
to break out of them, or to forge its result, may well succeed. Run it where nothing can be lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.columns import per_sample, texts_of
from rlalign.rewards.function import reward
from rlalign.rewards.text import text_of

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PARALLEL = 2

# Runs in the child: limits first, then the code, then its tests; writes the nonce and the number of passed tests.
_CHILD = r"""
import ctypes, json, os, resource, sys

job = json.loads(sys.stdin.read())
with open(os.devnull) as nothing:
    os.dup2(nothing.fileno(), 0)
if not job["network"]:
    # new namespaces of user and network: no interface but a loopback that is down
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(0x10000000 | 0x40000000):
        os.write(1, f"{job['nonce']} network".encode())
        os._exit(0)
for name, most in (("CPU", job["seconds"]), ("AS", job["memory"]), ("FSIZE", 1 << 20), ("NOFILE", 32), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
# the limit on processes counts all of the user's and does not bind root: it makes a fork bomb short, no more
resource.setrlimit(resource.RLIMIT_NPROC, (job["processes"], job["processes"]))
report = os.dup(1)
with open(os.devnull, "w") as nothing:
    os.dup2(nothing.fileno(), 1)
    os.dup2(nothing.fileno(), 2)
nonce, passed, space = job.pop("nonce"), 0, {"__name__": "__main__"}
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
os.write(report, f"{nonce} {passed}".encode())
os._exit(0)
"""


@reward("code", timeout_s=600.0, range=(0.0, 1.0))
def code(
    completions: Sequence[Any],
    answer: Any,
    *,
    allow: bool = False,
    seconds: int = 5,
    memory_mb: int = 512,
    network: bool = False,
    **columns: Any,
) -> list[float | None]:
    """Share of the tests in `answer` (Python statements such as asserts, one text or a list) that the code passes.

    The completion's first ```python block runs, or all of it without one, then each test, in a fresh interpreter with
    an empty folder, without the environment's variables and network, killed with its children after `seconds`, with
    limits on memory and files. Off by default: `code?allow=true` says that model-written code may run here. This is no
    security boundary (see `rlalign.rewards.builtin.code`). Code that fails to run scores 0; None without tests.
    Range: [0, 1].
    Cost: about 30 programs a second on one core. Deterministic as far as the program is.
    Hacked by: special cases for the tests that are seen, and code that tampers with the interpreter of both.
    Raises UserError when it is not allowed, or where no network namespace can be made (`network=true` does without).
    """
    if not allow:
        raise UserError("reward 'code' runs what a model writes: say code?allow=true where that can do no harm")
    if seconds < 1 or memory_mb < 64:
        raise UserError(f"reward 'code': seconds is {seconds}, memory_mb {memory_mb}: give at least 1 and 64")
    jobs = [
        {
            "code": program(text_of(completion)),
            "tests": None if tests is None else texts_of(tests),
            "seconds": seconds,
            "memory": memory_mb << 20,
            "processes": 64,
            "network": network,
        }
        for completion, tests in zip(completions, per_sample(answer, len(completions)), strict=True)
    ]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(_run, jobs))


def program(text: str) -> str:
    """The first fenced block of Python in a text, else the text."""
    found = _FENCE.search(text)
    return found.group(1) if found else text


def _run(job: dict[str, Any]) -> float | None:
    tests = job["tests"]
    if not tests:
        return None
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="rlalign-code-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "PATH": os.defpath},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(json.dumps({**job, "nonce": nonce}).encode(), timeout=job["seconds"] + 5)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    head, _, passed = said.decode(errors="replace").partition(" ")
    if head != nonce:
        return 0.0
    if passed == "network":
        raise UserError("reward 'code': the network cannot be cut off here: say code?allow=true&network=true")
    return int(passed) / len(tests)

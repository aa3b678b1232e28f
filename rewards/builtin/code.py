"""Reward for code that passes tests: the completion's Python runs in a subprocess with limits.

This is not a security boundary. The limits stop accidents: endless loops, full disks, fork bombs, network access. Code
that is written to escape the limits, or to forge its result, may succeed. Run it only on a machine without valuable
data or credentials.
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
from rlalign.typecheck import check_range

# A closing fence may be missing: the completion was cut by its token limit.
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PARALLEL = 2  # programs that run at the same time
_GRACE_S = 5  # seconds beyond the program's own limit before its process group is killed

# Runs in the child: sets the limits, executes the code and its tests, writes the nonce and the number of passed tests.
_CHILD = r"""
import ctypes, json, os, resource, sys

job = json.loads(sys.stdin.read())
with open(os.devnull) as empty:
    os.dup2(empty.fileno(), 0)
if not job["network"]:
    # 0x10000000 is CLONE_NEWUSER, 0x40000000 CLONE_NEWNET: the only interface is a loopback that is down
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(0x10000000 | 0x40000000):
        os.write(1, f"{job['nonce']} network".encode())
        os._exit(0)
for name, most in (("CPU", job["seconds"]), ("AS", job["memory"]), ("FSIZE", 1 << 20), ("NOFILE", 32), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
# the limit counts all processes of the user and does not bind root, so it only shortens a fork bomb
resource.setrlimit(resource.RLIMIT_NPROC, (job["processes"], job["processes"]))
report = os.dup(1)
with open(os.devnull, "w") as empty:
    os.dup2(empty.fileno(), 1)
    os.dup2(empty.fileno(), 2)
# the namespace of the code does not hold the nonce, by which the parent recognizes the report
nonce = job.pop("nonce")
passed = 0
space = {"__name__": "__main__"}
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
    """Return the share of the tests in `answer` (Python statements such as asserts) that the code passes.

    The first ```python block of the completion runs, or the whole completion if it has none. Then each test runs. Each
    completion gets a new interpreter with an empty folder, without environment variables and network. It is killed with
    its children after `seconds`, and its memory and files are limited. Off by default: `code?allow=true` permits code
    written by a model to run on this machine. This is not a security boundary (see `rlalign.rewards.builtin.code`).
    Code that fails to run scores 0.

    Range: [0, 1]; None without tests.
    Cost: about 30 programs per second on one core.
    Deterministic as far as the program is.
    Hacked by: special cases for the tests that are seen, and code that manipulates the interpreter that runs both.

    Args:
        completions: B texts or conversations.
        answer: tests per sample, one text or a list of texts.
        allow: permit execution.
        seconds: limit of processor time per completion, at least 1.
        memory_mb: limit of address space in MiB, at least 64.
        network: leave the network reachable.
        columns: ignored.

    Raises:
        UserError: execution is not allowed, or no network namespace can be created (`network=true` runs without one).
    """
    if not allow:
        raise UserError(
            "reward 'code': expected permission to run code that a model wrote, got allow=false; "
            "use code?allow=true on a machine where it can do no harm"
        )
    check_range("reward 'code', seconds", seconds, least=1, fix="use code?seconds=5")
    check_range("reward 'code', memory_mb", memory_mb, least=64, fix="use code?memory_mb=512")
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
    """Return the first fenced block of Python in a text, else the text."""
    block = _FENCE.search(text)
    return block.group(1) if block else text


def _run(job: dict[str, Any]) -> float | None:
    """Return the share of tests that one program passes."""
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
            request = json.dumps({**job, "nonce": nonce}).encode()
            output, _ = process.communicate(request, timeout=job["seconds"] + _GRACE_S)
        except subprocess.TimeoutExpired:
            output = b""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    reported_nonce, _, passed = output.decode(errors="replace").partition(" ")
    if reported_nonce != nonce:  # the program ended early or forged a report
        return 0.0
    if passed == "network":
        raise UserError(
            "reward 'code': expected a network namespace, got a system that cannot create one; "
            "use code?allow=true&network=true"
        )
    return int(passed) / len(tests)

"""Reward for code that passes tests: the completion's Python runs in an isolated process (`rlalign.rewards.sandbox`).

This is not a security boundary. The limits stop accidents and simple escapes: endless loops, full disks, daemons,
network access. The code can read the files of this machine, and it can forge its result. Run it only on a machine
without valuable data or credentials.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.columns import per_sample, texts_of
from rlalign.rewards.function import reward
from rlalign.rewards.sandbox.isolation import UnavailableError
from rlalign.rewards.sandbox.run import Limits, count_passed
from rlalign.rewards.text import text_of
from rlalign.typecheck import check_range

# A closing fence may be missing: the completion was cut by its token limit.
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TIMEOUT_S = 600.0  # seconds of a call
_RESERVE_S = 100.0  # seconds of a call, besides the limit of a program, in which no program starts
_FIRST_S = 10.0  # seconds in which programs start in any case


@reward("code", timeout_s=_TIMEOUT_S, range=(0.0, 1.0))
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
    completion gets a new interpreter with an empty folder and without environment variables. It cannot open sockets or
    write files elsewhere. It is killed after `seconds`, together with its processes, and its memory and files are
    limited (see Rewards, "Code that a model wrote"). Off by default: `code?allow=true` permits code written by a model
    to run on this machine. This is not a security boundary. Code that fails to run scores 0.

    As many programs run at the same time as the machine has processors, at least two. A batch takes at most 10 minutes:
    programs that could not end by then do not start and are not scored (NaN).

    Range: [0, 1]; None without tests; NaN if a program did not start in time, or if the machine kills the process that
    supervises it.
    Cost: about 30 programs per second on one core.
    Deterministic as far as the program is.
    Hacked by: special cases for the tests that are seen, and code that manipulates the interpreter that runs both.

    Args:
        completions: B texts or conversations.
        answer: tests per sample, one text or a list of texts.
        allow: permit execution.
        seconds: limit of processor time per completion, at least 1.
        memory_mb: limit of address space in MiB, at least 64.
        network: leave the network reachable. Unix sockets stay out of reach.
        columns: ignored.

    Raises:
        UserError: execution is not allowed, or the system cannot isolate a program.
    """
    if not allow:
        raise UserError(
            "reward 'code': expected permission to run code that a model wrote, got allow=false; "
            "use code?allow=true on a machine where it can do no harm"
        )
    check_range("reward 'code', seconds", seconds, least=1, fix="use code?seconds=5")
    check_range("reward 'code', memory_mb", memory_mb, least=64, fix="use code?memory_mb=512")
    limits = Limits(seconds, memory_mb, network=network)

    statements = [[] if tests is None else texts_of(tests) for tests in per_sample(answer, len(completions))]

    last_start = monotonic() + max(_FIRST_S, _TIMEOUT_S - _RESERVE_S - seconds)

    def score(completion: Any, tests: Sequence[str]) -> float | None:
        if not tests:
            return None
        if monotonic() > last_start:  # endless loops in the programs before: their samples alone are at fault
            return math.nan
        passed = count_passed(program(text_of(completion)), tests, limits)
        return math.nan if passed is None else passed / len(tests)

    with ThreadPoolExecutor(_parallel()) as pool:
        try:
            return list(pool.map(score, completions, statements))
        except UnavailableError as error:
            raise UserError(
                f"reward 'code': expected a system that can isolate a program, got {error}; "
                "use Linux 6.2 or newer, in a container whose profile allows landlock_create_ruleset and seccomp"
            ) from error


def _parallel() -> int:
    """Return the number of programs that run at the same time."""
    return max(2, os.cpu_count() or 1)


def program(text: str) -> str:
    """Return the first fenced block of Python in a text, else the text."""
    block = _FENCE.search(text)
    return block.group(1) if block else text

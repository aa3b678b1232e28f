"""Plugin of pytest that notes, for each test, the lines that it runs and its seconds of processor time.

    RLALIGN_CONTEXTS=FILE python -m pytest -p tests.mutants.contexts ...

It writes FILE.coverage and FILE.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_FILE = Path(os.environ.get("RLALIGN_CONTEXTS", "contexts"))
_SECONDS: dict[str, float] = {}
_COVERAGE = coverage.Coverage(data_file=str(_FILE) + ".coverage", source=["rlalign", "envs", "policies"])


def pytest_sessionstart() -> None:
    """Start to measure."""
    _COVERAGE.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure under the test's node id."""
    _COVERAGE.switch_context(item.nodeid)
    start = _processor_seconds()
    try:
        return (yield)
    finally:
        _SECONDS[item.nodeid] = _processor_seconds() - start


def _processor_seconds() -> float:
    """Return the processor time of this process and its ended children, which other work does not change."""
    return sum(os.times()[:4])


def pytest_sessionfinish() -> None:
    """Write both files."""
    _COVERAGE.stop()
    _COVERAGE.save()
    Path(str(_FILE) + ".json").write_text(json.dumps(_SECONDS))

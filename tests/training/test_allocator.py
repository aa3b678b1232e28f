"""Allocator settings that keep freed memory in the process, unless the user has set them."""

import os
import subprocess
import sys

import pytest

from rlalign.training.allocator import keep_freed_memory

COUNT = """
import resource, sys
from rlalign.training.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(9)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(6):
    if i == 1:  # after one round of warm-up
        initial = faults()
    block = bytearray(64 << 20)
    del block
print(faults() - initial)
"""


def page_faults(mode):
    """Return the page faults of repeated 64 MiB allocations in a new process; `keep` applies the settings."""
    process = subprocess.run([sys.executable, "-c", COUNT, mode], capture_output=True, text=True, check=False)
    if process.returncode == 9:
        pytest.skip("needs glibc")
    assert process.returncode == 0, process.stderr
    return int(process.stdout)


def test_freed_memory_is_reused_without_page_faults(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    # with the defaults each allocation faults all its pages again (fewer faults with huge pages)
    assert page_faults("keep") < page_faults("leave") / 2


def test_thresholds_of_the_user_are_not_changed(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()

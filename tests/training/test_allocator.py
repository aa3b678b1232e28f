"""Freed memory stays with the process, unless its user decided otherwise."""

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
for turn in range(6):
    began = faults() if turn == 1 else began if turn else 0
    block = bytearray(64 << 20)
    del block
print(faults() - began)
"""


def faults(what):
    ran = subprocess.run([sys.executable, "-c", COUNT, what], capture_output=True, text=True, check=False)
    if ran.returncode == 9:
        pytest.skip("no glibc here")
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_what_is_freed_is_used_again(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    kept, left = faults("keep"), faults("leave")
    assert kept < left / 2  # pages, huge ones on some machines, fetched anew in each turn


def test_a_users_own_thresholds_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()

"""The end of a worker is found on systems that lack pidfd_open and waitid."""

import os
import subprocess

import pytest

from rlalign.rewards.worker_pipe import WorkerPipe


def test_the_end_of_a_process_is_found_without_waitid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("waitid", "pidfd_open"):
        monkeypatch.delattr(os, name, raising=False)
    process = subprocess.Popen(["cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pipe = WorkerPipe(process)
    assert not pipe.has_ended()
    assert pipe.exchange(b"frame", 60.0) == b"frame"
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    assert pipe.has_ended()
    pipe.close()

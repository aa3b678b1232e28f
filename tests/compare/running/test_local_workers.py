"""Local processes: detection of ended runs without the server that forks them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from rlalign.compare.running.local_workers import LocalWorkers
from rlalign.compare.study import Study, build_cells


def test_an_ended_process_is_detected_if_its_server_does_not_report_it(tmp_path: Path) -> None:
    """A stopped server must not block the study: each run sends its own exit status."""
    (done, killed) = build_cells(Study(("rloo",), ("reverse",), seeds=(0, 1), steps=1, output=str(tmp_path)))
    workers = LocalWorkers(2)
    workers.start("done", done.config)
    workers.start("killed", replace(killed.config, steps=10**6))
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # private
    # The server holds the pipes of its processes for a moment after a fork. Once it forks another, it has closed them.
    third = workers._context.Process(target=int)
    third.start()
    os.kill(server, signal.SIGSTOP)
    try:
        assert next_ended(workers) == ("done", 0)
        workers._running["killed"][0].kill()
        assert next_ended(workers)[0] == "killed"
    finally:
        os.kill(server, signal.SIGCONT)
    third.join()
    workers.start("killed", replace(killed.config, steps=10**6, output=str(tmp_path / "again")))
    workers._running["killed"][0].kill()
    assert next_ended(workers) == ("killed", -signal.SIGKILL)


def next_ended(workers: LocalWorkers) -> tuple[str, int]:
    """Wait for the next run to end; return its name and exit status."""
    ended = workers.wait(60)
    while not ended:
        ended = workers.wait(60)
    (run,) = ended
    return run.name, run.status

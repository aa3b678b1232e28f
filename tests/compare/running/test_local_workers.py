"""Local processes: detection of ended runs without the server that forks them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from rlalign.compare.running.local_workers import _PRELOADED, LocalWorkers
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


def test_a_run_imports_nothing_large_after_the_preload(tmp_path: Path) -> None:
    """A module that the server lacks costs its import in every run: peft alone takes longer than a short run."""
    code = f"""
import importlib, sys
for name in {_PRELOADED!r}:
    importlib.import_module(name)
known = set(sys.modules)
import rlalign
rlalign.train(env="reverse", policy="gru", algorithm="ppo", steps=1, output={str(tmp_path / "run")!r}, quiet=True)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - known}}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"peft", "transformers", "sympy", "matplotlib", "scipy"} & set(result.stdout.split()), result.stdout


def test_a_script_without_a_guard_fails_with_the_fix(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rlalign.compare.run_study import compare_study\n"
        "from rlalign.compare.study import Study\n"
        f"compare_study(Study(('rloo',), ('reverse',), seeds=(0,), steps=1, output={str(tmp_path / 'out')!r}))\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode
    assert "under `if __name__ == '__main__':`" in result.stderr.splitlines()[-1]


def next_ended(workers: LocalWorkers) -> tuple[str, int]:
    """Wait for the next run to end; return its name and exit status."""
    ended = workers.wait(60)
    while not ended:
        ended = workers.wait(60)
    (run,) = ended
    return run.name, run.status

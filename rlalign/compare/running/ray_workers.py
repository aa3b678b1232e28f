"""Execution of runs on a Ray cluster.

No shared disk is needed: a run's folder returns as an archive, and an unfinished run is sent with its checkpoint.
Needs ray (`pip install -c constraints.txt -e '.[ray]'`).
"""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.compare.running.workers import Ended, log_of, reason_of, run_here
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import from_dict, to_dict
from rlalign.errors import UserError
from rlalign.registry import import_optional
from rlalign.storage.run_folder import read_config, write_config


class RayWorkers:
    """Tasks on a Ray cluster.

    Args:
        address: address of the cluster; "local" starts one on this machine.
        jobs: runs at once; 0: one per CPU of the cluster.

    Raises:
        UserError: ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str = "local", jobs: int = 0) -> None:
        self._ray = import_optional("ray", "ray")
        if not self._ray.is_initialized():
            size: dict[str, Any] = {"num_cpus": jobs} if address == "local" and jobs else {}
            try:
                self._ray.init(
                    address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **size
                )
            except (ConnectionError, ValueError) as error:
                raise UserError(
                    f"--ray: expected the address of a running Ray cluster, got '{address}' "
                    f"({str(error).splitlines()[0]}); use --ray alone to start one on this machine"
                ) from error
        self.jobs = jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        # max_calls=1: a new process for each run, as on this machine
        self._task = self._ray.remote(num_cpus=1, max_calls=1, max_retries=0)(run_in_task)
        self._running: dict[str, tuple[Any, TrainConfig]] = {}

    def start(self, name: str, config: TrainConfig) -> None:
        """Send a run, with its folder if it is to be resumed."""
        archive = pack(Path(str(config.output))) if config.resume else b""
        self._running[name] = (self._task.remote(to_dict(config), archive), config)

    def wait(self, seconds: float) -> list[Ended]:
        """Return the runs that have ended and put their folders in place; wait at most `seconds` for the first."""
        names = {ref: name for name, (ref, _) in self._running.items()}
        ready: list[Any] = []
        if names:
            ready, _ = self._ray.wait(list(names), num_returns=1, timeout=seconds)
        ended = []
        for ref in ready:
            name = names[ref]
            _, config = self._running.pop(name)
            try:
                status, output, archive = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                reason = str(error).split("\n")[-1] or type(error).__name__
                ended.append(Ended(name, 1, f"lost on the cluster: {reason}"))
                continue
            unpack(archive, Path(str(config.output)))
            log = log_of(config)
            log.parent.mkdir(parents=True, exist_ok=True)  # a run that was refused has no folder
            log.write_text(output, encoding="utf-8")
            ended.append(Ended(name, status, reason_of(status, log)))
        return ended

    def stop(self, name: str) -> None:
        """Ask a run to save and leave: cancellation sends its process the signal of Ctrl-C."""
        if name in self._running:
            self._ray.cancel(self._running[name][0])

    def close(self) -> None:
        """Ask all runs to stop, wait until their folders have arrived, and disconnect."""
        for name in self._running:
            self.stop(name)
        while self._running:
            self.wait(1.0)
        self._ray.shutdown()


def run_in_task(config: Mapping[str, Any], archive: bytes) -> tuple[int, str, bytes]:
    """Execute a run in a task of the cluster and return (exit status, printed output, run folder as an archive).

    Args:
        config: the run's configuration as plain values.
        archive: the run folder to resume from; empty: none.
    """
    output = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(output), redirect_stderr(output):
        folder = Path(scratch) / "run"
        if archive:
            unpack(archive, folder)
        status = run_here(replace(from_dict(TrainConfig, config), output=str(folder)))
        if (folder / "config.json").is_file():
            # The folder moves to the path that the study assigned to it.
            write_config(folder, replace(read_config(folder), output=config["output"]))
        return status, output.getvalue(), pack(folder)


def pack(folder: Path) -> bytes:
    """Return a folder as a compressed archive; empty if there is no such folder."""
    if not folder.is_dir():
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Replace a folder by the content of an archive; a kill leaves the old folder, the new one or none of the two."""
    if not archive:
        return
    staging = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # Set as an attribute: a Python without extraction filters (3.11.2, Debian 12) ignores it.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(staging)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)

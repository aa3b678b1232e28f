"""Runs on a Ray cluster: the same function in a worker process there; its folder comes back as one archive.

No shared disk is needed. A run that was half done here goes there with its checkpoint.
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
from rlalign.storage.run_folder import read_config, write_config


class RayWorkers:
    """A Ray cluster as a place for runs.

    Args:
        address: of the cluster; "local" starts one on this machine.
        jobs: runs at once; 0: one for each CPU of the cluster.
    """

    def __init__(self, address: str = "local", jobs: int = 0) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("ray is not installed: pip install 'rlalign[ray]'") from None
        self._ray: Any = ray
        if not ray.is_initialized():
            size: dict[str, Any] = {"num_cpus": jobs} if address == "local" and jobs else {}
            try:
                self._ray.init(
                    address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **size
                )
            except (ConnectionError, ValueError) as error:
                raise UserError(f"no Ray cluster at '{address}' ({str(error).splitlines()[0]})") from error
        self.jobs = jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        # a fresh process for each run, as on this machine
        self._task = ray.remote(num_cpus=1, max_calls=1, max_retries=0)(run_there)
        self._running: dict[str, tuple[Any, TrainConfig]] = {}

    def start(self, name: str, config: TrainConfig) -> None:
        """Send a run."""
        folder = Path(str(config.output))
        self._running[name] = self._task.remote(to_dict(config), pack(folder) if config.resume else b""), config

    def wait(self, seconds: float) -> list[Ended]:
        """Runs that have ended, waiting for one at most so long; their folders are put in place."""
        names = {ref: name for name, (ref, _) in self._running.items()}
        ready, _ = self._ray.wait(list(names), num_returns=1, timeout=seconds) if names else ([], [])
        ended = []
        for ref in ready:
            name = names[ref]
            _, config = self._running.pop(name)
            try:
                status, said, archive = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                said = str(error).split("\n")[-1] or type(error).__name__
                ended.append(Ended(name, 1, f"lost on the cluster: {said}"))
                continue
            unpack(archive, Path(str(config.output)))
            log = log_of(config)
            log.parent.mkdir(parents=True, exist_ok=True)  # a run that was refused has left no folder
            log.write_text(said, encoding="utf-8")
            ended.append(Ended(name, status, reason_of(status, log)))
        return ended

    def stop(self, name: str) -> None:
        """Ask a run to save and leave: what cancels it there is the signal of Ctrl-C, which a run knows."""
        if name in self._running:
            self._ray.cancel(self._running[name][0])

    def close(self) -> None:
        """Ask all to stop, wait until their folders are here, and leave the cluster."""
        for name in self._running:
            self.stop(name)
        while self._running:
            self.wait(1.0)
        self._ray.shutdown()


def run_there(config: Mapping[str, Any], archive: bytes) -> tuple[int, str, bytes]:
    """What the cluster runs: (exit status, what it printed, the run folder as an archive)."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(said), redirect_stderr(said):
        folder = Path(scratch) / "run"
        if archive:
            unpack(archive, folder)
        status = run_here(replace(from_dict(TrainConfig, config), output=str(folder)))
        if (folder / "config.json").is_file():
            write_config(folder, replace(read_config(folder), output=config["output"]))
        return status, said.getvalue(), pack(folder)


def pack(folder: Path) -> bytes:
    """A folder as an archive; nothing when there is none."""
    if not folder.is_dir():
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, arcname=".")
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Put an archive's folder in place of what was there, complete or not at all."""
    if not archive:
        return
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # as an attribute, which a Python without filters (3.11.2, Debian 12) passes over
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)

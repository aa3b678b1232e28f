"""Folders that are written whole or not at all, with a manifest of their files.

A folder is written under a temporary name beside its target, synchronized to the disk, given its manifest export.json
as the last file, and renamed. A process that is killed at any moment leaves at most the temporary folder, under a name
that begins with a dot, which the next export to that target removes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from rlalign.errors import FaultError, UserError
from rlalign.policies.file_modes import apply_umask
from rlalign.policies.model_files import sha256
from rlalign.storage.atomic import read_json
from rlalign.storage.folder_kind import is_run

MANIFEST = "export.json"
_VERSION = 1
_AGAIN = "export the run again"


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `target` after the block, which must have written its manifest.

    Args:
        target: does not exist, or is empty.

    Raises:
        UserError: the target holds files.
        FaultError: it cannot be written; an error of the block leaves nothing.
    """
    check_target(target)
    target = target.resolve()  # "." has no name
    _remove_abandoned(target)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        with suppress(FileNotFoundError):
            target.rmdir()  # an empty one; a folder that was filled meanwhile raises
        os.rename(partial, target)
        _synchronize(target.parent)
    except OSError as error:
        if error.errno is None:  # of a library, such as transformers about a file that it reads
            raise
        raise FaultError(
            f"'{target}' cannot be written ({error.strerror or error}); free space or make it writable, then run "
            "the same command again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(target: Path) -> None:
    """Raise UserError if the target of an export holds files."""
    if target.exists() and not target.is_dir():
        raise UserError(f"--output: expected a new folder, got the file '{target}'; use another --output")
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"--output: expected a new folder, got '{target}', which holds files; use another --output")


def _remove_abandoned(target: Path) -> None:
    """Remove temporary folders of processes that were killed."""
    for path in target.parent.glob(f".{escape(target.name)}.partial-*"):
        process = path.name.rpartition("-")[2]
        if process.isdigit() and not _runs(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return process != os.getpid()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Synchronize all files of a folder to the disk, then write its manifest with their sizes and digests.

    Args:
        folder: complete but for the manifest.
        content: further entries, as JSON values.
    """
    apply_umask(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _synchronize(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = {"format_version": _VERSION, **content, "files": files}
    target = folder / MANIFEST
    target.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _synchronize(target)
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        _synchronize(path)


def _synchronize(path: Path) -> None:
    """Write a file or the entries of a folder to the disk, which a rename could otherwise reach before the content."""
    if path.is_dir() and os.name == "nt":  # Windows does not open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_export(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export after comparing each of its files with its digest.

    Args:
        folder: that an export wrote.

    Raises:
        UserError: the manifest is missing or damaged, a file is missing, cut or changed, is a link, or was not written
            by the export; the message names the file. Files whose name begins with a dot, which a hub adds, and those
            in such folders may be there.
    """
    if not folder.is_dir():
        raise UserError(f"expected the folder of an export, got '{folder}', which does not exist; {_AGAIN}")
    if not (folder / MANIFEST).is_file() and is_run(folder):
        raise UserError(
            f"expected the folder of an export, got the run '{folder}'; use the folder that rlalign export "
            f"{folder} --output FOLDER wrote"
        )
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"'{folder}': expected the folder of an export, got one without {MANIFEST}: it is half-written or from "
            f"another program; {_AGAIN}"
        )
    manifest = read_json(folder / MANIFEST, _AGAIN)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    is_known = isinstance(manifest, dict) and manifest.get("format_version") == _VERSION
    if not isinstance(files, dict) or not files or not is_known or not isinstance(manifest.get("form"), str):
        raise UserError(f"'{folder / MANIFEST}': expected a manifest of version {_VERSION}, got another one; {_AGAIN}")
    for name, entry in files.items():
        _check_file(folder, str(name), entry)
    for path in sorted(folder.rglob("*")):  # also settings, templates and code are read by loaders
        name = path.relative_to(folder)
        if path.is_symlink():
            raise UserError(f"'{folder}': expected files of the export, got the link {name.as_posix()}; {_AGAIN}")
        is_hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and name.as_posix() not in (*files, MANIFEST) and not is_hidden:
            raise UserError(f"'{folder}': expected only files of the export, got {name.as_posix()}; remove that file")
    return dict(manifest)


def _check_file(folder: Path, name: str, entry: Any) -> None:
    """Raise UserError if a file differs from its entry in the manifest."""
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute() or not isinstance(entry, dict):
        raise UserError(f"'{folder / MANIFEST}': expected files of the folder, got {name!r}; {_AGAIN}")
    if not path.is_file():
        raise UserError(f"'{folder}': expected the file {name}, got none; {_AGAIN}")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise UserError(f"'{folder}': expected {entry.get('bytes')} bytes in {name}, got {size}; {_AGAIN}")
    digest = sha256(path)
    if digest != entry.get("sha256"):
        expected = str(entry.get("sha256"))[:12]
        raise UserError(
            f"'{folder}': expected {name} as exported, sha256 {expected}, got a changed file, sha256 {digest[:12]}; "
            f"{_AGAIN}"
        )

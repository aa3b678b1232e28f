"""Checksums of stored weights: a flipped bit in a cached model is found before the model is trained."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlalign import assets
from rlalign.errors import FaultError
from rlalign.policies.model_files import ModelFiles, sha256

_FILE = "rlalign_digests.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_digests(folder: Path) -> None:
    """Write the sha256 of each safetensors file of a folder to `rlalign_digests.json`, unless that file exists."""
    target = folder / _FILE
    if not target.is_file():
        digests = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        target.write_text(json.dumps(digests, indent=1))


def check_digests(files: ModelFiles) -> None:
    """Compare the weight files with the checksums that are known for them.

    Known are those of `rlalign_digests.json` in a folder, and those of the hub, whose cache names each large file by
    its sha256. A folder without either passes. Hashing reads 0.5 to 2 GB/s per file, from the
    disk cache that loading then uses.

    Args:
        files: of the model.

    Raises:
        FaultError: the content of a file is not that of its checksum.
    """
    expected = _expected(files)
    with ThreadPoolExecutor(4) as pool:  # hashlib releases the lock of the interpreter
        digests = pool.map(sha256, expected)
        for (path, digest), found in zip(expected.items(), digests, strict=True):
            if found != digest:
                if files.is_local and not Path(files.name).resolve().is_relative_to(assets.home().resolve()):
                    fix = f"copy the model again, or delete {_FILE} if you have changed the weights"
                else:
                    fix = "delete the folder from the cache, so that it is built or downloaded again"
                raise FaultError(
                    f"'{files.name}': expected the sha256 {digest} of {path.name}, got {found}: the file has changed "
                    f"since it was stored; {fix}"
                )


def _expected(files: ModelFiles) -> dict[Path, str]:
    """Return the weight files that have a known checksum, with it."""
    if files.is_local:
        stored = files.read_json(_FILE) or {}
        paths = {Path(files.name) / name: str(digest) for name, digest in stored.items()}
        return {path: digest for path, digest in paths.items() if path.is_file()}  # `weight_files` reports the others
    blobs = ((path, path.resolve().name) for path in files.weight_files())
    return {path: name for path, name in blobs if _SHA256.fullmatch(name)}

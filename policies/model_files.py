"""Files of a model folder or of a hub id in the cache: located, read and hashed without loading a weight."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlalign.errors import UserError

# another format of weights, and the advice that the refusal gives
_OTHER_WEIGHTS = {
    ".gguf": "use the folder of the original model, or convert the file with rlalign.policies.gguf.convert",
    **dict.fromkeys((".bin", ".pt", ".pth"), "load it once with {library} and write safetensors with save_pretrained"),
}
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")  # files of a trainer's checkpoint
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors header.

    Attributes:
        shape: its sizes.
        dtype: its format, in safetensors' names, such as F32 and BF16.
        file: name of the file that holds it.
    """

    shape: tuple[int, ...]
    dtype: str
    file: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a local folder or of a hub id.

    A hub id is read from the cache. Small files that the cache lacks are fetched if the hub can be reached. Weight
    files are not fetched.

    Attributes:
        name: path of the folder, or hub id.
    """

    name: str

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine."""
        return Path(self.name).is_dir()

    def find(self, file: str) -> Path | None:
        """Return the path of a file; None if the folder, the cache or the hub does not have it."""
        if self.is_local:
            path = Path(self.name) / file
            return path if path.is_file() else None
        return _hub_file(self.name, file)

    def read_json(self, file: str) -> dict[str, Any] | None:
        """Return the content of a JSON file; None if it does not exist.

        Raises:
            UserError: the file is not a JSON object.
        """
        path = self.find(file)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(
                f"'{self.name}': expected JSON in {file}, got a file that cannot be read ({error}); use a complete copy"
            ) from error
        if not isinstance(content, dict):
            raise UserError(
                f"'{self.name}': expected a JSON object in {file}, got {type(content).__name__}; use a complete copy"
            )
        return content

    def names(self) -> list[str]:
        """Return the names of the files of a local folder, sorted; [] for a hub id."""
        return sorted(p.name for p in Path(self.name).iterdir() if p.is_file()) if self.is_local else []

    def weight_files(self, stem: str = "model") -> list[Path]:
        """Return the safetensors files that hold the weights; [] for a hub id whose weights are not in the cache.

        Args:
            stem: `model`, or `adapter_model` for the weights of an adapter.

        Raises:
            UserError: a local folder holds no safetensors weights, or a file that the index names is missing.
        """
        single = self._stored(f"{stem}.safetensors")
        if single is not None:
            return [single]
        index = self.read_json(f"{stem}.safetensors.index.json")
        if index is None:
            if not self.is_local:
                return []
            raise UserError(self._no_weights(stem))
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(
                f"'{self.name}': expected a weight_map in {stem}.safetensors.index.json, got none; use a complete copy"
            )
        files = sorted({str(file) for file in weight_map.values()})
        paths = [self._stored(file) for file in files]
        missing = [file for file, path in zip(files, paths, strict=True) if path is None]
        if missing and self.is_local:
            raise UserError(
                f"'{self.name}': expected the {len(files)} weight files of {stem}.safetensors.index.json, got a folder "
                f"without {listed(missing)}; copy the missing files"
            )
        return [] if missing else [path for path in paths if path is not None]

    def _stored(self, file: str) -> Path | None:
        """Return the path of a file of this machine; never ask the hub."""
        if self.is_local:
            return self.find(file)
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.name, file)
        except HFValidationError:
            return None
        return Path(found) if isinstance(found, str) else None

    def _no_weights(self, stem: str) -> str:
        """Return the message for a local folder without safetensors weights."""
        text = f"'{self.name}': expected weights in {stem}.safetensors, got "
        for name in self.names():
            advice = _OTHER_WEIGHTS.get(Path(name).suffix)
            if advice is not None and not name.startswith(_NO_WEIGHTS):
                library = "peft" if stem == "adapter_model" else "transformers"
                return f"{text}{name}; {advice.format(library=library)}"
        return f"{text}none; use a folder that save_pretrained wrote, or a hub id"


def is_missing_folder(name: str) -> bool:
    """Return True for the path of a folder that does not exist, which no hub can have.

    A hub id is NAME or OWNER/NAME. A name of this form is a path too if OWNER is a folder here that holds runs or
    models, such as `runs/a`, unless the cache of the hub has the model.

    Args:
        name: folder or hub id.

    Example:
        >>> is_missing_folder("runs/gone/policy"), is_missing_folder("./gone"), is_missing_folder("owner/name")
        (True, True, False)
    """
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for an unknown user
    if path.exists():
        return False
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        return True
    if "/" not in name:
        return False
    holds_models = any(path.parent.glob("*/config.json")) or any(path.parent.glob("*/adapter_config.json"))
    return holds_models and not _is_cached(name)


def _is_cached(name: str) -> bool:
    """Return True if the cache of the hub holds a model or an adapter under an id."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    files = ("config.json", "adapter_config.json")
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        return False


@lru_cache(maxsize=256)  # each call asks the hub whether the cache is up to date
def _hub_file(name: str, file: str) -> Path | None:
    """Return the path of a file of a hub id in the cache, fetched if needed; None if it does not exist."""
    if is_missing_folder(name):
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # the hub cannot be reached, or it has no such id: the caller reports that
        return None
    return Path(found) if found else None


def check_hub(name: str, *, thing: str = "policy", names: str = "a name of rlalign list policies") -> None:
    """Raise UserError for a missing folder, or a model that is not in the hub's cache while the hub cannot be reached.

    The hub is asked once. transformers would ask six times, with waits of half a minute in total, before the same error
    for a name that is most often misspelt. If the hub answers, transformers reports the answer in its own words.

    Args:
        name: hub id; a folder passes.
        thing, names: what the model is loaded as, and the names of it besides folders and ids, for the message.
    """
    if Path(name).is_dir():
        return
    if is_missing_folder(name):
        raise UserError(f"no folder '{name}'; check the path of the {thing}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if not _is_cached(name):
            get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub
        raise UserError(
            f"no {thing} '{name}': expected a folder, {names} or a hub id, and the model hub cannot "
            f"be reached ({first_line(error)}); check the name or the connection"
        ) from error


def read_headers(paths: list[Path], folder: str) -> dict[str, StoredTensor]:
    """Return the tensors of safetensors files, by name, from their headers.

    Args:
        paths: the files.
        folder: name of the model in messages.

    Raises:
        UserError: a file is cut off or is no safetensors file.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, entry in _header(path, folder).items():
            tensors[name] = StoredTensor(tuple(entry["shape"]), str(entry["dtype"]), path.name)
    return tensors


def _header(path: Path, folder: str) -> dict[str, Any]:
    """Return the header of a safetensors file without its metadata: name -> dtype, shape, data_offsets.

    Layout: 8 bytes with the length of the header (little-endian), the header as JSON, the data. The library's reader
    reports a cut file as an error of its parser, so the sizes are compared here.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("no safetensors header")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        with path.open("rb") as file:
            start = file.read(40)
        if start.startswith(b"version https://git-lfs"):
            raise UserError(
                f"'{folder}': expected weights in {path.name}, got a pointer of git lfs; use git lfs pull"
            ) from error
        raise UserError(
            f"'{folder}': expected a safetensors file, got {path.name} of {size} bytes without a readable header; "
            "copy or download it again"
        ) from error
    if size != end:
        raise UserError(
            f"'{folder}': expected {end} bytes in {path.name}, got {size}; the file is cut off or damaged: copy or "
            "download it again"
        )
    return dict(header)


def sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(names: list[str], most: int = 4) -> str:
    """Return names for a message: at most `most` of them, then the count of the rest."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def described(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__

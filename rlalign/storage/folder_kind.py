"""Kinds of folders that the commands write, and the error that names what a path holds in place of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlalign.errors import UserError
from rlalign.storage.atomic import read_json

_STUDY = ("results.json", "cells", "tune")
_SEARCH = ("search.json", "trials.json")
_EXPORT = "export.json"
_MODEL = ("policy.json", "adapter_config.json", "tokenizer_config.json", "generation_config.json")


def refuse_results(folder: Path) -> None:
    """Raise UserError if a folder for a new run holds a study or a search."""
    kind = _results_kind(folder)
    if kind:
        raise UserError(f"'{folder}' holds a {kind}; use another --output")


def _results_kind(folder: Path) -> str:
    """Return "study" or "search" if the folder holds one, else an empty text."""
    if any((folder / name).exists() for name in _STUDY):
        return "study"
    return "search" if any((folder / name).exists() for name in _SEARCH) else ""


def check_run(folder: Path) -> None:
    """Raise UserError if a path is not a run folder; the message describes what it is, and names the path to use."""
    model = is_model(folder)
    if (folder / "config.json").is_file() and not model:
        return
    found, fix = _description(folder, model=model)
    raise UserError(f"expected a run folder, got '{folder}', {found}; {fix}")


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a model, such as `policy/` of a run, whose config.json is that of the model."""
    return any((folder / name).is_file() for name in _MODEL)


def _description(folder: Path, *, model: bool) -> tuple[str, str]:
    """Return what a path holds that is no run, and what to use."""
    new = "create a run with rlalign train"
    run = next((parent for parent in folder.absolute().parents if is_run(parent)), None)
    if not folder.exists():
        return "which does not exist", f"check the path, or {new}"
    if folder.is_file():
        return "a file", f"use {run}" if run else f"use the folder of a run, or {new}"
    kind = _results_kind(folder)
    if kind == "study":
        cell = _first_run((folder / "cells").glob("*/*/*/"))
        return "the folder of a study", f"use one of its runs, such as {cell}" if cell else "use one of the runs in it"
    if kind == "search":
        trial = _first_run((folder / "trials").glob("*/"))
        best = f"train with rlalign train --config {folder / 'best.toml'}"
        return "the folder of a search", f"use one of its runs, such as {trial}, or {best}" if trial else best
    if (folder / _EXPORT).is_file():
        return _description_of_export(folder)
    if run is not None:
        return "a folder inside a run", f"use {run}"
    if model:
        return "the folder of a policy", f"use a run folder, or {new} --policy {folder}"
    inside = _first_run(folder.glob("*/"))
    return "which has no config.json", f"use a run in it, such as {inside}" if inside else new


def _description_of_export(folder: Path) -> tuple[str, str]:
    """Return what an export is, and how to use it in place of a run."""
    manifest = read_json(folder / _EXPORT, "export the run again")
    name = manifest.get("run") if isinstance(manifest, dict) else None
    loader = "llama.cpp" if any(folder.glob("*.gguf")) else "transformers"
    run = "the run that it is of" if name is None else f"the run '{name}' that it is of"
    return "an export", f"use {run}, or sample from the export with {loader} (see its README.md)"


def _first_run(folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in sorted(folders) if is_run(folder)), None)


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run. A config.json alone may be that of a model or another program."""
    return (folder / "config.json").is_file() and (folder / "run.lock").is_file()

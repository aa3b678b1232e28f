"""Reward models from their folders, checked against the scores of their probe texts."""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.reward_model.ensemble import EnsembleScorer
from rlalign.rewards.reward_model.linear import load_linear
from rlalign.rewards.reward_model.manifest import FILE, Form, Manifest, read_manifest
from rlalign.rewards.reward_model.probes import PROBES, check_probes

_SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")


def is_reward_model(folder: Path) -> bool:
    """Return whether a folder has reward_model.json, or the config.json or the adapter of a model."""
    return any((folder / name).is_file() for name in (FILE, "config.json", "adapter_config.json"))


def load_scorer(folder: str | Path, device: str = "cpu", *, form: Form | None = None) -> tuple[Any, Manifest | None]:
    """Return the model of a folder and its manifest; its probe texts score as at the end of the training.

    A folder without reward_model.json is a sequence classifier with one output, as TRL's RewardTrainer saves it. It has
    no manifest and no probes.

    Args:
        folder: path of the folder.
        device: torch device.
        form: "text" or "chat" in place of the stored form; for a folder of RewardTrainer, whose form is "chat" if its
            tokenizer has a chat template.

    Raises:
        UserError: the folder is no reward model, or its probe texts score otherwise.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"expected the folder of a reward model, got '{path}', which is no folder; use its path")
    if not (path / FILE).is_file():
        from rlalign.rewards.reward_model.transformer import load_transformer, pads_with_eos

        scorer = load_transformer(path, None, device, form)
        if pads_with_eos(scorer):
            warnings.warn(
                f"'{path}': its padding token is its EOS token, so the end of a text is not read, and a finished and a "
                "cut completion can score equally; `rlalign reward-model train` gives the model its own padding token",
                stacklevel=2,
            )
        return scorer, None
    manifest = read_manifest(path)
    scorer = _load(path, manifest, device, form)
    if form in (None, manifest.form):
        check_probes(path, manifest.probes, scorer.scores(PROBES))
    return scorer, manifest


def _load(path: Path, manifest: Manifest, device: str, form: Form | None) -> Any:
    if manifest.kind == "linear":
        return load_linear(path, manifest)
    if manifest.kind == "transformer":
        from rlalign.rewards.reward_model.transformer import load_transformer

        return load_transformer(path, manifest, device, form)
    if len(manifest.members) < 2:
        raise UserError(f"'{path}': expected two members or more, got {len(manifest.members)}; train it again")
    members = [load_scorer(path / name, device, form=form) for name in manifest.members]
    centers = [0.0 if described is None else described.center for _, described in members]
    return EnsembleScorer([scorer for scorer, _ in members], centers, manifest.how, manifest.coef)


def model_files(folder: Path) -> dict[str, Path]:
    """Return path inside the folder -> path, of the files that decide what a reward model computes."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_SUFFIXES):
                path = Path(root) / name
                found[path.relative_to(folder).as_posix()] = path
    return found


def cached_scorer(folder: str, device: str, form: Form | None = None) -> tuple[Any, Manifest | None]:
    """Return the model of a folder, which is loaded again only if a file changed."""
    path = Path(folder).expanduser().resolve()
    files = model_files(path) if path.is_dir() else {}
    state = tuple((name, f.stat().st_size, f.stat().st_mtime_ns) for name, f in files.items())
    return _cached(str(path), device, form, state)


@lru_cache(maxsize=4)
def _cached(folder: str, device: str, form: Form | None, state: tuple[Any, ...]) -> tuple[Any, Manifest | None]:
    return load_scorer(folder, device, form=form)

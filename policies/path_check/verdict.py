"""The result of a proof, and its file in the cache of this library."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlalign import assets
from rlalign.policies.scoring.paths import Paths

_LIBRARIES = ("torch", "transformers", "peft")
_KNOWN = (
    "torch.",
    "transformers.models.",
    "transformers.pytorch_utils",
    "transformers.integrations.",
    "transformers.activations",
    "peft.",
    "rlalign.",
)
"""Modules whose classes are determined by the versions of the libraries."""
_SOURCES = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Trial:
    """A path that was compared with plain rows.

    Attributes:
        path: its name.
        float32: largest difference of a log-prob in float32, in nats; None if it was not measured.
        compute: mean difference of a log-prob in the compute dtype, in nats; None if that is float32.
        reason: why the path is not used; empty if it passes.
    """

    path: str
    float32: float | None
    compute: float | None
    reason: str

    @property
    def differences(self) -> str:
        """The differences in words."""
        measured = [f"{self.float32:.1g} nats from plain rows"] if self.float32 is not None else []
        if self.compute is not None:
            measured.append(f"{self.compute:.1g} on average in the compute dtype")
        return ", ".join(measured)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The paths that a model takes, or the reason why it is refused.

    Attributes:
        paths: the fastest paths that pass.
        trials: all paths that were tried, in order.
        refusal: the reason why no path is used; empty if there is one.
    """

    paths: Paths
    trials: tuple[Trial, ...]
    refusal: str = ""

    @property
    def summary(self) -> str:
        """One line: the paths, their differences, and the reasons against faster ones."""
        passed = [trial for trial in self.trials if not trial.reason]
        failed = [f"not {trial.path}: {trial.reason}" for trial in self.trials if trial.reason]
        parts = [", ".join(f"{trial.path} ({trial.differences})" for trial in passed), *failed]
        if self.paths.proven is not None:
            parts.append(f"contexts beyond {self.paths.proven} tokens in batches of equal length")
        return "; ".join(part for part in parts if part)


def path_name(kind: str, paths: Paths) -> str:
    """Return the name of a path in messages.

    Args:
        kind: head, scoring or decoding: the part that is named.
        paths: the paths.
    """
    modules = ", modules of transformers" if paths.stock else ""
    if kind == "head":
        return f"logits by {'the formula of the head' if paths.head == 'formula' else 'the model itself'}{modules}"
    if kind == "scoring":
        return f"scored {paths.scoring}{modules}"
    rows = {"select": "", "reorder": ", rows by reorder_cache", "keep": ", finished rows kept"}[paths.rows]
    if paths.decoding == "optimized":
        return "decoded by the optimized decoder"
    if paths.decoding == "reread":
        return f"decoded without a cache{modules}"
    return f"decoded {paths.decoding}{rows}{modules}"


def digest(lm: Any, **settings: Any) -> str | None:
    """Return the key of a verdict; None if code from outside of the known libraries takes part.

    It covers the configuration, the classes of all modules, the settings, the versions of the libraries and the source
    of this package. Weights and paths of files have no part in it.

    Args:
        lm: the transformers model.
        settings: JSON values that the verdict depends on.
    """
    kinds = sorted({f"{type(module).__module__}.{type(module).__qualname__}" for module in lm.modules()})
    if not all(kind.startswith(_KNOWN) for kind in kinds):
        return None
    config = {k: v for k, v in lm.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    content = [config, kinds, settings, {name: _version(name) for name in _LIBRARIES}, _source_digest()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def load(key: str | None) -> Verdict | None:
    """Return the stored verdict of a key; None if there is none that can be read."""
    if key is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(_file(key).read_text(encoding="utf-8"))
        trials = tuple(Trial(**trial) for trial in stored["trials"])
        return Verdict(Paths(**stored["paths"]), trials, stored["refusal"])
    return None


def store(key: str | None, verdict: Verdict) -> None:
    """Write a verdict. A cache that cannot be written costs the next proof and nothing else."""
    if key is None:
        return
    with suppress(OSError):
        path = _file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(verdict), indent=1), encoding="utf-8")
        partial.replace(path)


def _file(key: str) -> Path:
    return assets.home() / "paths" / f"{key}.json"


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


@cache
def _source_digest() -> str:
    """Return the digest of the modules of policies/: another version of them needs another proof."""
    content = hashlib.sha256()
    for path in sorted(_SOURCES.rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()


def cpu_capability(model: nn.Module) -> str:
    """Return the device of a model and, on a CPU, its instruction set, which decides between kernels."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"

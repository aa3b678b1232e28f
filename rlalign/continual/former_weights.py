"""The trained tensors of a former run, and the check that a run continues with the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.storage import checkpoint
from rlalign.storage.newest import newest

_SHOWN = 3  # names in a message
# policy/ may hold the weights in bfloat16, whose relative rounding error is 2^-9
_RELATIVE, _ABSOLUTE = 2**-8, 1e-6


@dataclass(frozen=True)
class FormerWeights:
    """The newest checkpoint of a former run.

    Attributes:
        folder: the run folder.
        weights: name -> tensor of the trained parameters that the run ended with.
        optimizer: state of its AdamW, as `torch.optim.Optimizer.state_dict` returns it.
        names: names of the trained parameters, in the order in which the optimizer numbers those of one group.
        is_best: the run ended with the weights of its best validation, which are older than the optimizer's state.
    """

    folder: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    names: tuple[str, ...]
    is_best: bool


def read_former_weights(folder: Path, setting: str) -> FormerWeights:
    """Return the trained tensors and the optimizer's state of a run.

    Args:
        folder: the run folder.
        setting: that needs them, for the message.

    Raises:
        UserError: the run has no checkpoint.
        FaultError: no checkpoint verifies.
    """
    found = newest(folder / "checkpoints", need=("policy", "optimizer", "progress")) if _has(folder) else None
    if found is None:
        raise UserError(
            f"{setting}: expected a checkpoint of '{folder}', got none; use a run whose checkpoints/ are kept, or "
            "leave the setting out"
        )
    state = found.state
    best_step = int(state["progress"].get("patience", {"step": 0})["step"])
    best = folder / "best" / f"step-{best_step}"
    is_best = bool(best_step) and (best / checkpoint.MANIFEST).is_file()
    weights = checkpoint.load(best, need=("policy",))[0]["policy"] if is_best else state["policy"]
    return FormerWeights(folder, weights, state["optimizer"], tuple(state["policy"]), is_best)


def _has(folder: Path) -> bool:
    return bool(checkpoint.complete(folder / "checkpoints"))


def check_same_tensors(former: FormerWeights, parameters: Mapping[str, Tensor], setting: str) -> None:
    """Raise UserError unless a run starts with the trained tensors that the former run ended with.

    Names and shapes must be equal, and the values too, up to the rounding of the files in `policy/`: a new adapter may
    have the names and shapes of the former one.

    Args:
        former: of the run that is continued.
        parameters: name -> trained parameter of this run, before its first update.
        setting: that needs them, for the message.
    """
    missing = [name for name in former.weights if name not in parameters]
    superfluous = [name for name in parameters if name not in former.weights]
    differing = []
    for name, parameter in parameters.items():
        old = former.weights.get(name)
        if old is not None and not _equal(old, parameter.detach()):
            differing.append(name)
    reasons = [
        f"{words} {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for words, names in (
            ("this run does not train", missing),
            ("the former run did not train", superfluous),
            ("another shape or another start of", differing),
        )
        if names
    ]
    if reasons:
        raise UserError(
            f"{setting}: expected the trained tensors of '{former.folder}', got others: {'; '.join(reasons)}; "
            f"{_fix(former)}"
        )


def _equal(old: Tensor, new: Tensor) -> bool:
    if old.shape != new.shape:
        return False
    return torch.allclose(old.to(new), new, rtol=_RELATIVE, atol=_ABSOLUTE)


def _fix(former: FormerWeights) -> str:
    """Return what to use so that the same tensors are trained."""
    adapter = former.folder / "policy" / "adapter"
    if adapter.is_dir():
        return f"use --policy {adapter}, which continues its adapter, or leave the setting out"
    return (
        "use --model.adapter.kind none, if it trained all weights, and its --objective.value.kind; or leave the "
        "setting out"
    )

"""Checks of a batch's shapes and numbers, and zeros in every masked entry.

Every function of this package that takes a batch from outside prepares it first. Masked entries become 0 before any
arithmetic. Multiplying by the mask afterwards would not do: 0 · inf is NaN. Set to 0 first, the gradient of padding is
exactly 0 for any content.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.objective.batch import Batch

PER_TOKEN = (
    "logprobs",
    "old_logprobs",
    "sampler_logprobs",
    "ref_logprobs",
    "second_ref_logprobs",
    "values",
    "old_values",
    "entropies",
    "advantages",
    "returns",
)
PER_ROW = (
    "group_ids",
    "terminated",
    "truncated",
    "final_values",
    "greedy_rewards",
    "reference_point",
    "valid",
    "weights",
)


class NonFiniteError(UserError):
    """A tensor of the batch holds NaN or inf on a token or row that counts.

    Args:
        tensor: name of the tensor.
        rows: indices of the rows with such numbers.

    Attributes:
        tensor: name of the tensor.
    """

    def __init__(self, tensor: str, rows: list[int]) -> None:
        self.tensor = tensor
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        fix = "; set `valid` to false for a failed reward" if tensor in ("rewards", "greedy_rewards") else ""
        super().__init__(f"{tensor}: expected finite numbers in unmasked entries, got NaN or inf in rows {shown}{fix}")


def prepare(batch: Batch, *, finite: bool = True) -> Batch:
    """Return a batch with checked shapes, `valid` and `in_baseline` filled in, and zeros in masked entries and rows.

    A row is masked if it is neither valid nor included in the baseline.

    Args:
        batch: of the caller; it is not changed.
        finite: False leaves out the check for NaN and inf, which waits for the device.

    Raises:
        UserError: a tensor has the wrong shape or dtype; the message names it, the expected and the actual shape.
        NonFiniteError: NaN or inf on an unmasked entry.
    """
    mask = batch.action_mask
    if mask.ndim != 2 or mask.dtype != torch.bool:
        dtype = str(mask.dtype).removeprefix("torch.")
        raise UserError(f"action_mask: expected bool [N, T], got {dtype} {list(mask.shape)}")
    n, t = mask.shape
    for name in PER_TOKEN:
        _check_shape(batch, name, (n, t))
    for name in PER_ROW:
        _check_shape(batch, name, (n,))
    if batch.rewards.shape not in ((n,), (n, t)):
        raise UserError(f"rewards: expected shape [{n}] or [{n}, {t}], got {list(batch.rewards.shape)}")
    valid = torch.ones(n, dtype=torch.bool, device=mask.device) if batch.valid is None else batch.valid
    in_baseline = valid if batch.in_baseline is None else batch.in_baseline
    rows = valid | in_baseline
    entries = mask & rows[:, None]
    clean: dict[str, Tensor] = {}
    for f in fields(batch):
        x = getattr(batch, f.name)
        if isinstance(x, Tensor) and x.is_floating_point():
            clean[f.name] = x.where(entries if x.ndim == 2 else rows, 0)
    if finite and clean:
        _check_finite(clean)
    return replace(batch, valid=valid, in_baseline=in_baseline, **clean)  # type: ignore[arg-type]  # every value is a tensor


def _check_finite(tensors: dict[str, Tensor]) -> None:
    # One number for all tensors, so that the device is waited for once: NaN and inf survive the sum. The rows are
    # looked up only if it is not finite.
    total = torch.stack([x.detach().sum().double() for x in tensors.values()]).sum()
    if bool(torch.isfinite(total)):
        return
    for name, x in tensors.items():
        is_finite = torch.isfinite(x.detach())
        bad = ~(is_finite if x.ndim == 1 else is_finite.all(1))
        if bool(bad.any()):
            raise NonFiniteError(name, bad.nonzero().flatten().tolist())


def _check_shape(batch: Batch, name: str, shape: tuple[int, ...]) -> None:
    x = getattr(batch, name)
    if x is not None and tuple(x.shape) != shape:
        raise UserError(f"{name}: expected shape {list(shape)}, got {list(x.shape)}")

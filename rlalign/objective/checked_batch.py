"""Every batch passes here first: shapes and numbers are checked, and what lies off the mask is set to 0.

Setting it to 0 before any arithmetic, rather than multiplying by the mask after it, makes the gradient at pads exactly
0 whatever stands there: 0 · inf is not 0.
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
    "values",
    "old_values",
    "entropies",
    "advantages",
    "returns",
)
PER_ROW = ("group_ids", "terminated", "truncated", "final_values", "greedy_rewards", "valid", "weights")


class NonFiniteError(UserError):
    """A tensor of the batch holds NaN or inf where it counts; `tensor` is its name."""

    def __init__(self, tensor: str, rows: list[int]) -> None:
        self.tensor = tensor
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        hint = " (a failed reward belongs in `valid`)" if tensor in ("rewards", "greedy_rewards") else ""
        super().__init__(f"{tensor} holds NaN or inf where it counts, in rows {shown}{hint}")


def prepare(batch: Batch, *, finite: bool = True) -> Batch:
    """A batch with checked shapes, `valid` and `in_baseline` filled in, and zeros off the mask and in rows without a say.

    `finite=False` leaves out the look for NaN and inf, which waits for the device.

    Raises:
        UserError: a tensor's shape or kind is wrong; names it, the expected and the given shape.
        NonFiniteError: NaN or inf on a valid row's tokens.
    """
    mask = batch.action_mask
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise UserError(f"action_mask must be bool [N, T], and is {_kind(mask)} {list(mask.shape)}")
    n, t = mask.shape
    for name in PER_TOKEN:
        _expect(batch, name, (n, t))
    for name in PER_ROW:
        _expect(batch, name, (n,))
    if batch.rewards.shape not in ((n,), (n, t)):
        raise UserError(f"rewards must have shape [{n}] or [{n}, {t}], and has {list(batch.rewards.shape)}")
    valid = torch.ones(n, dtype=torch.bool, device=mask.device) if batch.valid is None else batch.valid
    in_baseline = valid if batch.in_baseline is None else batch.in_baseline
    seen = mask & (valid | in_baseline)[:, None]
    clean: dict[str, Tensor] = {}
    for f in fields(batch):
        x = getattr(batch, f.name)
        if isinstance(x, Tensor) and x.is_floating_point():
            clean[f.name] = x.where(seen if x.ndim == 2 else valid | in_baseline, 0)
    if finite and clean:
        _refuse_non_finite(clean)
    return replace(batch, valid=valid, in_baseline=in_baseline, **clean)  # type: ignore[arg-type]  # every value is a tensor


def _refuse_non_finite(tensors: dict[str, Tensor]) -> None:
    # one number to look at; where it comes from is sought only when it is bad
    total = torch.stack([x.detach().sum().double() for x in tensors.values()]).sum()
    if bool(torch.isfinite(total)):
        return
    for name, x in tensors.items():
        at = torch.isfinite(x.detach())
        bad = ~(at if x.ndim == 1 else at.all(1))
        if bool(bad.any()):
            raise NonFiniteError(name, bad.nonzero().flatten().tolist())


def _expect(batch: Batch, name: str, shape: tuple[int, ...]) -> None:
    x = getattr(batch, name)
    if x is not None and tuple(x.shape) != shape:
        raise UserError(f"{name} must have shape {list(shape)}, and has {list(x.shape)}")


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")

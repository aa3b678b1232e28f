"""The aggregation axis: the sum of token losses, and the count that the learner divides it by, once and globally.

    sequence_sum    Σ_i Σ_t l_it            / N            the gradient of E[R]
    sequence_mean   Σ_i (1/|y_i|) Σ_t l_it  / N            GRPO: short completions weigh more per token
    token_global    Σ_i Σ_t l_it            / Σ_i |y_i|    DAPO
    constant        Σ_i Σ_t l_it            / (N · L_max)  Dr. GRPO: sequence_sum, L_max times smaller

N counts the valid rows, |y_i| their tokens. Sample weights multiply the sum and not the count.
"""

from __future__ import annotations

from torch import Tensor

from rlalign.errors import UnknownNameError, UserError
from rlalign.objective.batch import Batch

KINDS = ("sequence_sum", "sequence_mean", "token_global", "constant")


def total(kind: str, per_token: Tensor, batch: Batch) -> Tensor:
    """Return the sum of per_token [N, T] over the valid tokens, a scalar with gradient."""
    rows = per_token.where(_mask(batch), 0).sum(1)
    if kind == "sequence_mean":
        rows = rows / batch.action_mask.sum(1).clamp(min=1)
    elif kind not in KINDS:
        raise UnknownNameError("aggregation", kind, KINDS)
    return (rows if batch.weights is None else rows * batch.weights).sum()


def count(kind: str, batch: Batch) -> Tensor:
    """Return the denominator of `total`: a float scalar that depends on masks and lengths alone."""
    dtype = batch.rewards.dtype
    if kind == "token_global":
        return _mask(batch).sum().to(dtype)
    rows = _mask(batch).any(1).sum().to(dtype)
    if kind == "constant":
        if batch.max_length < 1:
            raise UserError(
                "aggregation constant divides by L_max: expected a batch with max_length of at least 1, got "
                f"{batch.max_length}; use Batch(max_length=...)"
            )
        return rows * batch.max_length
    if kind in ("sequence_sum", "sequence_mean"):
        return rows
    raise UnknownNameError("aggregation", kind, KINDS)


def _mask(batch: Batch) -> Tensor:
    return batch.action_mask if batch.valid is None else batch.action_mask & batch.valid[:, None]

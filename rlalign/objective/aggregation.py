"""The aggregation axis: the sum of token losses, and the count that the learner divides it by, once and globally."""

from __future__ import annotations

from torch import Tensor

from rlalign.errors import UnknownNameError, UserError
from rlalign.objective.batch import Batch

KINDS = ("sequence_sum", "sequence_mean", "token_global", "constant")


def total(kind: str, per_token: Tensor, batch: Batch) -> Tensor:
    """Return the sum of token losses over the valid tokens, a scalar with gradient.

    The loss is total / count (see `count`). l_it is the loss of token t of row i, N the number of valid rows::

        kind             total                     count
        sequence_sum     Σ_i Σ_t l_it              N             the gradient of E[R]
        sequence_mean    Σ_i (1/|y_i|) Σ_t l_it    N             GRPO (arXiv 2402.03300)
        token_global     Σ_i Σ_t l_it              Σ_i |y_i|     DAPO (arXiv 2503.14476)
        constant         Σ_i Σ_t l_it              N · L_max     Dr. GRPO (arXiv 2503.20783)

    sequence_mean weighs the tokens of short completions more. constant is sequence_sum, L_max times smaller. Sample
    weights (`batch.weights`) multiply the rows of the total and not the count.

    Args:
        kind: sequence_sum, sequence_mean, token_global or constant.
        per_token: float [N, T], loss of each token; any numbers off the mask.
        batch: reads `action_mask`, `valid` and `weights`.

    Raises:
        UnknownNameError: the kind is none of these.
    """
    rows = per_token.where(_mask(batch), 0).sum(1)
    if kind == "sequence_mean":
        rows = rows / batch.action_mask.sum(1).clamp(min=1)
    elif kind not in KINDS:
        raise UnknownNameError("aggregation", kind, KINDS)
    return (rows if batch.weights is None else rows * batch.weights).sum()


def count(kind: str, batch: Batch) -> Tensor:
    """Return the denominator of `total`, which has the table of both.

    It depends on masks and lengths alone, so that it is known before the forward pass.

    Args:
        kind: sequence_sum, sequence_mean, token_global or constant.
        batch: reads `action_mask`, `valid` and, for constant, `max_length`.

    Returns:
        Float scalar with the dtype of `batch.rewards`.

    Raises:
        UnknownNameError: the kind is none of these.
        UserError: constant without a `max_length` of at least 1.
    """
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

"""Which samples count, and what is added to their reward."""

from __future__ import annotations

from torch import Tensor

from rlalign.objective.groups import Groups


def overlong(lengths: Tensor, max_length: int, share: float, penalty: float) -> Tensor:
    """Length penalty (DAPO, arXiv 2503.14476), [N], at most 0.

    0 up to L_max - L_c, then linear down to -penalty at L_max; L_c = share · L_max is the buffer, lengths [N] count the
    policy's tokens.
    """
    buffer = share * max_length
    return -penalty * ((lengths - (max_length - buffer)) / buffer).clamp(0, 1)


def informative(returns: Tensor, group_ids: Tensor, valid: Tensor) -> Tensor:
    """bool [N]: the row's group has rewards that differ (dynamic sampling keeps these only; DAPO, arXiv 2503.14476)."""
    return Groups.of(group_ids, valid, returns.dtype).varied(returns)

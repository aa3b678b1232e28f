"""The ratio axis: the importance ratio pi/old of each token, of the completion, or its geometric mean, [N, T].

Masked columns of both log-probs are 0, so their log-ratio is 0 and their ratio 1.
"""

from __future__ import annotations

from torch import Tensor

from rlalign.errors import UnknownNameError

LEVELS = ("token", "sequence_product", "sequence_geomean")


def ratio(level: str, log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Return the importance ratio at a level, on each token, with gradient, float [N, T].

    ::

        token               rho_t = pi(y_t | y_<t) / old(y_t | y_<t)
        sequence_product    rho = Π_t rho_t
        sequence_geomean    rho = (Π_t rho_t)^(1/|y|)       GSPO, arXiv 2507.18071

    A ratio of the sequence is repeated on each column.

    Args:
        level: token, sequence_product or sequence_geomean.
        log_ratio: float [N, T], log pi - log old of each token with gradient, 0 off the mask.
        mask: bool [N, T], true on the policy's tokens; its sums are the lengths `|y|`.

    Raises:
        UnknownNameError: the level is none of these.
    """
    if level == "token":
        return log_ratio.exp()
    total = log_ratio.sum(1, keepdim=True)
    if level == "sequence_product":
        return total.exp().expand_as(log_ratio)
    if level == "sequence_geomean":
        return (total / mask.sum(1, keepdim=True).clamp(min=1)).exp().expand_as(log_ratio)
    raise UnknownNameError("ratio", level, LEVELS)


def detached_product(log_ratio: Tensor, sequence: bool) -> Tensor:
    """Return exp of the token's or the sequence's log-ratio, without gradient, [N, T]."""
    log_ratio = log_ratio.detach()
    return (log_ratio.sum(1, keepdim=True).expand_as(log_ratio) if sequence else log_ratio).exp()

"""The critic's loss, per token, [N, T]."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(values: Tensor, returns: Tensor, old_values: Tensor | None, clip: float) -> Tensor:
    """½ (v - R)², or with clip > 0 ½ max((v - R)², (v_old + clip(v - v_old, ±clip) - R)²) (arXiv 1707.06347, code).

    All arguments [N, T]; values with gradient.
    """
    error = (values - returns).square()
    if clip > 0:
        assert old_values is not None
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2

"""The value axis: the loss of the critic per token, [N, T]."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(values: Tensor, returns: Tensor, old_values: Tensor | None, clip: float) -> Tensor:
    """Return ½ (V - R)², or with clip > 0 ½ max((V - R)², (V_old + clip(V - V_old, ±clip) - R)²), [N, T].

    The clip is that of the code published with PPO (arXiv 1707.06347). All tensors are [N, T], values with gradient.
    """
    error = (values - returns).square()
    if clip > 0:
        assert old_values is not None
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2

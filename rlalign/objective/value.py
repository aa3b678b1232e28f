"""The value axis: the loss of the critic per token, [N, T]."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(values: Tensor, returns: Tensor, old_values: Tensor | None, clip: float) -> Tensor:
    """Return the loss of the critic on each token, float [N, T].

    ::

        clip = 0    ½ (V - R)²
        clip > 0    ½ max((V - R)², (V_clip - R)²),    V_clip = V_old + min(max(V - V_old, -clip), clip)

    The clip is that of the code published with PPO (arXiv 1707.06347).

    Args:
        values: float [N, T], V with gradient.
        returns: float [N, T], the target R.
        old_values: float [N, T], V at rollout; read only if clip is above 0.
        clip: distance from V_old beyond which the loss stops falling; 0: no clip.
    """
    error = (values - returns).square()
    if clip > 0:
        assert old_values is not None
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2

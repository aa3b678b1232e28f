"""V(s): a linear read-out of the last hidden state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """hidden [..., d] -> value [...], float32. It starts at zero, so that a first advantage is the reward itself.

    Args:
        width: d.
        detached: the value loss stops here and leaves the body alone.
    """

    def __init__(self, width: int, *, detached: bool = False) -> None:
        super().__init__()
        self.detached = detached
        self.linear = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values of hidden states."""
        out: Tensor = self.linear((hidden.detach() if self.detached else hidden).float())
        return out.squeeze(-1)

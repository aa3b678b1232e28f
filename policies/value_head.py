"""V(s): a linear read-out of the last hidden state, of the policy's body or of a body of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlalign.policies.scoring.packing import to_device


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
        with torch.autocast(hidden.device.type, enabled=False):  # float32 in mixed precision too
            out: Tensor = self.linear((hidden.detach() if self.detached else hidden).float())
        return out.squeeze(-1)


def state_values(head: ValueHead, states: Tensor, final: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N, L] of the states before the actions (0 elsewhere) and [N] of the whole contexts.

    states [A, d] are in the order of `action_mask.nonzero()`, final [N, d] in that of the rows.
    """
    at = tuple(to_device(index, states.device) for index in action_mask.nonzero(as_tuple=True))
    blank = torch.zeros(action_mask.shape, dtype=torch.float32, device=states.device)
    return blank.index_put(at, head(states)), head(final)

"""V(s) as a linear function of the last hidden state, of the policy's body or of a body of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlalign.policies.scoring.packing import to_device


class ValueHead(nn.Module):
    """Map hidden states [..., d] to values [...], float32.

    Its weights are 0 at first, so that the first advantages equal the rewards.

    Args:
        width: d.
        detached: stop the gradient of the value loss here, so that it does not reach the body.
    """

    def __init__(self, width: int, *, detached: bool = False) -> None:
        super().__init__()
        self.detached = detached
        self.linear = nn.Linear(width, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the values of hidden states."""
        with torch.autocast(hidden.device.type, enabled=False):  # float32 in mixed precision too
            out: Tensor = self.linear((hidden.detach() if self.detached else hidden).float())
        return out.squeeze(-1)


def state_values(head: ValueHead, states: Tensor, final: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [N, L] of the states before the actions (0 elsewhere) and [N] of the complete contexts.

    Args:
        head: the value head.
        states: [A, d], in the order of `action_mask.nonzero()`.
        final: [N, d], in the order of the rows.
        action_mask: bool [N, L].
    """
    at = tuple(to_device(index, states.device) for index in action_mask.nonzero(as_tuple=True))
    zeros = torch.zeros(action_mask.shape, dtype=torch.float32, device=states.device)
    return zeros.index_put(at, head(states)), head(final)

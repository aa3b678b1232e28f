"""A number per sequence, placed on the column of the sequence's last action."""

from __future__ import annotations

import torch
from torch import Tensor


def on_last_action(x: Tensor, mask: Tensor) -> Tensor:
    """Return x [N] on the last true column of each row of mask [N, T], 0 elsewhere; [N, T].

    A row without an action is 0 everywhere.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    # -1 stands for masked columns: a row without an action has -1 as its maximum, which no column equals
    last = torch.where(mask, columns, -1).amax(1, keepdim=True)
    return torch.where(columns == last, x[:, None], 0)

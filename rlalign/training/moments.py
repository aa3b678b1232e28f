"""Allocation of AdamW's moments before its first step, so that a lack of memory leaves the parameters as they are."""

from __future__ import annotations

import torch

from rlalign.policies.memory import empty_cache, is_out_of_memory, release_buffers


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Allocate the state of each parameter with a gradient, as the first step of the optimizer would.

    The optimizer allocates the state of a group before it updates this group. If memory ran out there, the groups
    before it would have changed. If memory runs out here, the buffers of decoding are dropped first.

    Raises:
        RuntimeError: memory ran out. No parameter has changed.
    """
    try:
        _allocate(optimizer)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or not release_buffers():
            raise
    empty_cache()
    _allocate(optimizer)


def _allocate(optimizer: torch.optim.AdamW) -> None:
    state = optimizer.state
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter not in state:
                moments = [torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)]
                step = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state[parameter] = {"step": step, "exp_avg": moments[0], "exp_avg_sq": moments[1]}

"""A function of the user's own that replaces or transforms the advantages of a batch.

::

    A ← f(A, batch)        after credit, baseline and scale, before the loss

`f` is pure and batched: tensors in, a tensor of the same shape out, on the policy's device. `registries.py` has the
registry, `ADVANTAGES`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlalign.errors import HookError, RLAlignError, user_place
from rlalign.objective.batch import Batch
from rlalign.objective.last_action import on_last_action
from rlalign.objective.registries import ADVANTAGES, UNCHANGED
from rlalign.objective.spec import Objective


def transformed(objective: Objective, advantages: Tensor, batch: Batch) -> Tensor:
    """Return the advantages [N, T] that `objective.advantage` makes of others; the same for "none".

    The function gets a copy of the advantages, which it may change, and the batch as `visible` returns it, which it may
    not.

    Args:
        objective: reads `advantage`, and which fields the batch has.
        advantages: float [N, T], after credit, baseline and scale; 0 in masked entries.
        batch: a prepared batch with `returns`.

    Raises:
        HookError: the function raised, changed the batch in place, or returned something other than finite numbers of
            the shape [N, T] on the device of the advantages. The message names the function.
    """
    name = objective.advantage
    if name == UNCHANGED:
        return advantages
    function = ADVANTAGES.get(name)
    view = visible(objective, batch)
    # each in-place operation raises the counter of its tensor; tensors of inference mode have none
    counters = {key: x._version for key, x in view.tensors().items() if not x.is_inference()}
    try:
        result = function(advantages.clone(), view)
    except RLAlignError:
        raise
    except Exception as error:
        raise HookError(f"advantage '{name}' raised {type(error).__name__}: {error}{user_place(error)}") from error
    changed = [key for key, count in counters.items() if getattr(view, key)._version != count]
    if changed:
        raise HookError(f"advantage '{name}': expected an unchanged batch, got {changed[0]} changed in place; clone it")
    return _checked(name, result, advantages, batch)


def visible(objective: Objective, batch: Batch) -> Batch:
    """Return the batch that an advantage function reads, in training as in the oracle.

    Always set: `action_mask`, `rewards` [N, T] (of the environment), `returns` [N, T] (the credit of each token),
    `group_ids`, `terminated`, `truncated`, `valid`, `in_baseline` and `max_length`. Set if the objective needs them:
    `ref_logprobs` (a KL term), `old_values` and `final_values` (a critic), `greedy_rewards` (baseline greedy), `ema`
    (from the second step). `sampler_logprobs` is set unless the completions were recorded without it. The others are
    None: they follow from the policy of an update, and advantages are computed before the first one.

    Args:
        objective: decides which fields are set.
        batch: a prepared batch.
    """
    rewards = batch.rewards if batch.rewards.ndim == 2 else on_last_action(batch.rewards, batch.action_mask)
    return replace(
        batch,
        rewards=rewards,
        logprobs=None,
        old_logprobs=None,
        values=None,
        entropies=None,
        advantages=None,
        ref_logprobs=batch.ref_logprobs if objective.needs_reference else None,
        old_values=batch.old_values if objective.needs_values else None,
        final_values=batch.final_values if objective.needs_values else None,
        greedy_rewards=batch.greedy_rewards if objective.needs_greedy else None,
    )


def _checked(name: str, result: object, advantages: Tensor, batch: Batch) -> Tensor:
    """Return what the function returned, in the dtype of the advantages."""
    expected = f"advantage '{name}': expected a tensor {list(advantages.shape)}"
    if not isinstance(result, Tensor):
        raise HookError(f"{expected}, got a {type(result).__name__}; return the advantages")
    if result.shape != advantages.shape:
        raise HookError(f"{expected}, got shape {list(result.shape)}; return one number per token")
    if result.device != advantages.device:
        raise HookError(f"{expected} on {advantages.device}, got one on {result.device}; keep tensors on its device")
    if result.is_complex() or result.dtype == torch.bool:
        raise HookError(f"{expected} of numbers, got {str(result.dtype).removeprefix('torch.')}; return floats")
    assert batch.in_baseline is not None
    mask = batch.action_mask & batch.in_baseline[:, None]
    result = result.detach().to(advantages.dtype)
    bad = mask & ~torch.isfinite(result)
    if bool(bad.any()):
        rows = bad.any(1).nonzero().flatten().tolist()
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise HookError(f"{expected} of finite numbers, got NaN or inf in rows {shown}; check divisions")
    return result

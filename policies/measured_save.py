"""Saving a policy of any kind and measuring, against the policy, what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import FaultError
from rlalign.policies.base import Policy
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.export_measure import BOUND
from rlalign.policies.factory import load
from rlalign.policies.file_modes import apply_umask
from rlalign.policies.saved import read_card, update_card


def save_measured(policy: Policy, folder: Path, held_out: Sequence[Sequence[int]]) -> str:
    """Write a policy folder, load it back, compare it with the policy, and return a line about it.

    The distance is stored in the folder's card, under `measured`. A policy whose class this library does not know is
    written without a comparison.

    Args:
        policy: the policy.
        folder: is made if it does not exist.
        held_out: token ids of contexts to compare on.

    Returns:
        A line for the user; "" without a comparison.

    Raises:
        FaultError: the policy that was loaded back is another one.
    """
    if isinstance(policy, CausalPolicy):
        policy.save_pretrained(folder, held_out)
    else:
        policy.save_pretrained(folder)
        if (read_card(folder) or {}).get("kind") in ("gru", "tabular"):
            update_card(folder, measured=_measured(policy, folder, held_out))
    apply_umask(folder)
    measured = (read_card(folder) or {}).get("measured")
    return "" if measured is None else _line(folder, measured)


def _measured(policy: Policy, folder: Path, held_out: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the distance of a saved GRU or table, as JSON values."""
    loaded = load(folder, tokenizer=policy.tokenizer, device=policy.device)
    nats = float((_next_logprobs(loaded, held_out) - _next_logprobs(policy, held_out)).abs().max())
    if not nats <= BOUND:
        raise FaultError(
            f"'{folder}': expected a policy within {BOUND} nats of the trained one, got {nats:.1e}; use the last "
            "checkpoint"
        )
    return {"bound": BOUND, "tokens": len(held_out), "held_out": True, "dtype": "float32", "nats": nats}


def _next_logprobs(policy: Policy, contexts: Sequence[Sequence[int]]) -> Tensor:
    """Return log-probs [n, V] of the token after each of n contexts."""
    policy.begin_rollout()
    _, logits = policy.prefill(contexts, [1] * len(contexts))
    return torch.log_softmax(logits, -1)


def _line(folder: Path, measured: dict[str, Any]) -> str:
    """Return what was measured as text."""
    line = f"saved {folder.name}/ in {measured['dtype']}: {measured['nats']:.1e} nats from the policy"
    if "reason" in measured:
        line += f" ({measured['reason']})"
    adapter = measured.get("adapter")
    if adapter is None:
        return line
    if adapter["nats"] is None:
        return f"{line}; its adapter is {adapter['reason']}"
    line += f"; its adapter {adapter['nats']:.1e} nats over '{adapter['base']}'"
    if "quantization" in adapter:
        line += f" in {adapter['quantization']}, {adapter['nats_over_plain_base']:.1e} over that base unquantized"
    return line

"""The objective: pure functions over masked tensors, one axis a file. It knows no model, environment or configuration.

    batch = advantages(objective, batch, state)     # the whole batch, once
    loss  = policy_loss(objective, batch, state)    # any part of it: LossSum(total, count, metrics)
    loss.total / global_count                       # the learner divides, by the sum of `loss_count` over all parts

Loaded on first use, because the specification of an objective must not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.objective.batch import Batch, LossSum
    from rlalign.objective.checked_batch import NonFiniteError
    from rlalign.objective.loss import (
        advantages,
        likelihood_count,
        likelihood_loss,
        loss_count,
        policy_loss,
        value_count,
        value_loss,
    )
    from rlalign.objective.registries import BASELINES, LOSSES, TRUSTS, baseline, custom_loss, trust_region
    from rlalign.objective.spec import KL, Credit, Filter, Objective, OffPolicy, Regularizer, Trust, Value
    from rlalign.objective.state import ObjectiveState
    from rlalign.objective.trust import TrustInput

__all__ = [
    "BASELINES",
    "KL",
    "LOSSES",
    "TRUSTS",
    "Batch",
    "Credit",
    "Filter",
    "LossSum",
    "NonFiniteError",
    "Objective",
    "ObjectiveState",
    "OffPolicy",
    "Regularizer",
    "Trust",
    "TrustInput",
    "Value",
    "advantages",
    "baseline",
    "custom_loss",
    "likelihood_count",
    "likelihood_loss",
    "loss_count",
    "policy_loss",
    "trust_region",
    "value_count",
    "value_loss",
]

_WHERE = {
    "batch": ("Batch", "LossSum"),
    "checked_batch": ("NonFiniteError",),
    "loss": (
        "advantages",
        "likelihood_count",
        "likelihood_loss",
        "loss_count",
        "policy_loss",
        "value_count",
        "value_loss",
    ),
    "registries": ("BASELINES", "LOSSES", "TRUSTS", "baseline", "trust_region", "custom_loss"),
    "spec": ("KL", "Credit", "Filter", "Objective", "OffPolicy", "Regularizer", "Trust", "Value"),
    "state": ("ObjectiveState",),
    "trust": ("TrustInput",),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

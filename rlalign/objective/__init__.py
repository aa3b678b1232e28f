"""The objective of reinforcement learning: pure functions over masked tensors, one axis per file.

The package does not depend on models, environments or run configurations.

    batch = compute_advantages(objective, batch, state)    # the whole batch, once
    loss  = policy_loss(objective, batch, state)           # any part of it: LossSum(total, count, metrics)
    loss.total / global_count                              # the learner divides, by the sum of `loss_count` over parts

Modules, in the order in which data flows:

    spec            Objective: one value per axis, and the combinations that are refused
    preference_settings  Preference: settings of the preference losses, and the axes that these refuse
    registries      names of baselines, trust regions, losses and advantages; the decorators that register them
    state           ObjectiveState: beta, moving average and step count between steps
    batch           Batch and LossSum: the input and the output
    checked_batch   checks of shapes and numbers; zeros in masked entries
    token_rewards   reward of each token: environment, overlong penalty, KL in the reward
    last_action     places a number per sequence on its last action
    credit          trajectory, reward to go, GAE
    groups          sums, means and standard deviations over the samples of a prompt
    baselines       the number subtracted from the return
    scales          the number that advantages are divided by
    custom_advantage  a function of the user's own that replaces or transforms advantages
    advantages      compute_advantages: token_rewards, credit, baseline and scale applied to the whole batch
    ratios          pi/old of a token or a sequence
    trust           bounds on the update: clip and its successors
    offpolicy       weights for a sampler that differs from the learner
    kl              estimates of KL(pi‖ref), in the reward and in the loss
    value           squared error of the critic
    aggregation     token losses to one sum and one count
    preference      dpo, ipo, kto, simpo: losses of pairs and of labeled completions
    loss            surrogate (the built-in policy term), policy_loss, likelihood_loss, value_loss and their counts

Notation: N sequences, T token columns (L in a rollout, prompt included), G samples per group, P prompts, V vocabulary;
y_i the completion of row i and |y_i| its tokens; pi the policy, old the policy before the update, ref the reference;
rho a ratio, A an advantage, r a reward, R a return, b a baseline, beta the KL coefficient. Shapes are in brackets.

Names are loaded on first use, because the specification of an objective must not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.objective.advantages import compute_advantages
    from rlalign.objective.batch import Batch, LossSum
    from rlalign.objective.checked_batch import NonFiniteError
    from rlalign.objective.loss import (
        likelihood_count,
        likelihood_loss,
        loss_count,
        policy_loss,
        value_count,
        value_loss,
    )
    from rlalign.objective.preference import reference_point
    from rlalign.objective.registries import (
        ADVANTAGES,
        BASELINES,
        LOSSES,
        TRUSTS,
        advantage,
        baseline,
        custom_loss,
        trust_region,
    )
    from rlalign.objective.spec import KL, Credit, Filter, Objective, OffPolicy, Preference, Regularizer, Trust, Value
    from rlalign.objective.state import ObjectiveState
    from rlalign.objective.trust import TrustInput

__all__ = [
    "ADVANTAGES",
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
    "Preference",
    "Regularizer",
    "Trust",
    "TrustInput",
    "Value",
    "advantage",
    "baseline",
    "compute_advantages",
    "custom_loss",
    "likelihood_count",
    "likelihood_loss",
    "loss_count",
    "policy_loss",
    "reference_point",
    "trust_region",
    "value_count",
    "value_loss",
]

_MODULES = {
    "advantages": ("compute_advantages",),
    "batch": ("Batch", "LossSum"),
    "checked_batch": ("NonFiniteError",),
    "loss": (
        "likelihood_count",
        "likelihood_loss",
        "loss_count",
        "policy_loss",
        "value_count",
        "value_loss",
    ),
    "preference": ("reference_point",),
    "registries": (
        "ADVANTAGES",
        "BASELINES",
        "LOSSES",
        "TRUSTS",
        "advantage",
        "baseline",
        "custom_loss",
        "trust_region",
    ),
    "spec": ("KL", "Credit", "Filter", "Objective", "OffPolicy", "Preference", "Regularizer", "Trust", "Value"),
    "state": ("ObjectiveState",),
    "trust": ("TrustInput",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

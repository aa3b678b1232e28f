"""Measures on held-out recorded data: the likelihood of demonstrations, the accuracy on preferences and labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlalign.objective.spec import Objective
from rlalign.policies.base import Policy
from rlalign.policies.memory import in_parts
from rlalign.recorded.columns import Kind
from rlalign.rollout.recorded import Group, token_rows
from rlalign.types import FloatArray, Sampling

MOST = 512
"""Largest number of held-out groups that are measured."""


def held_out_values(policy: Policy, groups: Sequence[Group], kind: Kind, objective: Objective) -> dict[str, FloatArray]:
    """Return metric -> one value per group, float64 [n], for the first 512 groups.

    Args:
        policy: with a reference for pairs and labels.
        groups: held-out data; one or more.
        kind: of the data.
        objective: its coefficient beta (`kl.coef`) scales implicit rewards.

    Returns:
        nll: mean over the trajectories of the mean of -log pi per token, for demonstrations and rewards. For pairs and
        labels: the implicit reward is beta · Σ log pi/ref (for simpo the mean of log pi); accuracy: 1 if that of the
        chosen completion is larger, 0.5 if they are equal (for labels: 1 if its sign is that of the label); margin:
        their difference; loss: -log sigmoid(margin); nll: of the chosen or desirable completion.

    Raises:
        UserError: a reference is needed and the policy has none.
    """
    groups = list(islice(groups, MOST))
    rows = [row for group in groups for row in group]
    layout = token_rows(rows)
    counts = layout.action_mask.sum(1).double()

    def score(part: Tensor) -> Tensor:
        arguments = (layout.tokens[part], layout.lengths[part], layout.action_mask[part], Sampling())
        logprobs = policy.score(*arguments).logprobs.double().sum(1).cpu()
        if not objective.needs_reference:
            return torch.stack([logprobs, torch.zeros_like(logprobs)], 1)
        reference = policy.reference_logprobs(*arguments).double().sum(1).cpu()
        return torch.stack([logprobs, reference], 1)

    with torch.no_grad():
        logprobs, reference = torch.cat(in_parts(score, torch.arange(len(rows)))).unbind(1)
    nll = (-logprobs / counts).numpy()
    if kind in ("demonstrations", "rewards"):
        sizes = np.array([len(group) for group in groups])
        return {"nll": np.add.reduceat(nll, np.r_[0, sizes.cumsum()[:-1]]) / sizes}
    beta = objective.kl.coef
    implicit = beta * (logprobs - reference) if objective.needs_reference else logprobs / counts
    if kind == "labels":
        sign = torch.tensor([1.0 if row.reward > 0 else -1.0 for row in rows], dtype=torch.float64)
        margins = sign * implicit
        desirable = np.where(sign.numpy() > 0, nll, np.nan)
        return {**_agreement(margins), "nll": desirable}
    chosen, rejected = implicit.view(-1, 2).unbind(1)
    return {**_agreement(chosen - rejected), "nll": nll.reshape(-1, 2)[:, 0]}


def _agreement(margins: Tensor) -> dict[str, FloatArray]:
    """Return accuracy, margin and loss of each margin; a margin of 0 counts as half an agreement."""
    accuracy = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {
        "accuracy": accuracy.numpy(),
        "margin": margins.numpy(),
        "loss": -logsigmoid(margins).numpy(),
    }


def held_out_metrics(values: dict[str, FloatArray]) -> dict[str, float]:
    """Return held_out/NAME -> mean over groups, without those that have no value."""
    return {f"held_out/{name}": float(np.nanmean(v)) for name, v in values.items() if not np.isnan(v).all()}

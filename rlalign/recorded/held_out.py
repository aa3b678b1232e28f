"""Measures on held-out recorded data: the likelihood of demonstrations, the accuracy on preferences and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlalign.objective.batch import Batch
from rlalign.objective.preference import implicit_rewards
from rlalign.objective.spec import Objective
from rlalign.policies.base import Policy
from rlalign.policies.memory import in_parts
from rlalign.recorded.columns import Kind
from rlalign.rollout.recorded import Group, Trajectory, token_rows
from rlalign.types import FloatArray, Sampling

MOST = 512
"""Largest number of held-out groups that are measured."""
_TOKENS = 8192  # of a forward pass, padding included: on a CPU no error comes before memory runs out


def held_out_values(policy: Policy, groups: Sequence[Group], kind: Kind, objective: Objective) -> dict[str, FloatArray]:
    """Return metric -> one value per group, float64 [n], for the first 512 groups.

    Args:
        policy: with a reference for pairs and labels.
        groups: held-out data; one or more.
        kind: of the data.
        objective: its loss defines implicit rewards.

    Returns:
        nll: mean over the trajectories of the mean of -log pi per token, for demonstrations and rewards. For pairs and
        labels, with the implicit reward of the loss (`rlalign.objective.preference.implicit_rewards`): accuracy: 1 if
        that of the chosen completion is larger, 0.5 if they are equal (for labels: 1 if its sign is that of the label);
        margin: their difference; loss: -log sigmoid(margin); nll: of the chosen or desirable completion.

    Raises:
        UserError: a reference is needed and the policy has none.
    """
    groups = list(islice(groups, MOST))
    rows = [row for group in groups for row in group]
    compares = kind in ("pairs", "labels")
    logprobs, implicit = _scores(policy, rows, objective, compares=compares).unbind(1)
    nll = (-logprobs / torch.tensor([row.num_actions for row in rows])).numpy()
    if not compares:
        sizes = np.array([len(group) for group in groups])
        return {"nll": np.add.reduceat(nll, np.r_[0, sizes.cumsum()[:-1]]) / sizes}
    if kind == "labels":
        sign = torch.tensor([1.0 if row.reward > 0 else -1.0 for row in rows], dtype=torch.float64)
        margins = sign * implicit
        desirable = np.where(sign.numpy() > 0, nll, np.nan)
        return {**_agreement(margins), "nll": desirable}
    chosen, rejected = implicit.view(-1, 2).unbind(1)
    return {**_agreement(chosen - rejected), "nll": nll.reshape(-1, 2)[:, 0]}


@torch.no_grad()
def _scores(policy: Policy, rows: Sequence[Trajectory], objective: Objective, *, compares: bool) -> Tensor:
    """Return log pi and the implicit reward (0 unless `compares`) of each row, float64 [N, 2] on the CPU."""

    def score(part: Tensor) -> Tensor:
        layout = token_rows([rows[i] for i in part.tolist()])
        arguments = (layout.tokens, layout.lengths, layout.action_mask, Sampling())
        logprobs = policy.score(*arguments).logprobs.double().cpu()
        total = logprobs.sum(1)
        if not compares:
            return torch.stack([total, torch.zeros_like(total)], 1)
        reference = None
        if objective.needs_reference:
            reference = policy.reference_logprobs(*arguments).double().cpu()
        ended = torch.ones(len(part), dtype=torch.bool)
        batch = Batch(layout.action_mask, total, part, ended, ~ended, logprobs=logprobs, ref_logprobs=reference)
        return torch.stack([total, implicit_rewards(objective, batch)], 1)

    lengths = torch.tensor([len(row.ids) for row in rows])
    order = lengths.argsort(stable=True)
    results = [result for part in _parts(order, lengths) for result in in_parts(score, part)]
    return torch.cat(results)[order.argsort()]


def _parts(order: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """Yield the rows, in the order of their lengths, in parts of up to `_TOKENS` tokens with padding."""
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or (stop + 1 - start) * int(lengths[order[stop]]) > _TOKENS:
            yield order[start:stop]
            start = stop


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

r"""The preference losses: dpo, ipo and simpo on pairs of completions, kto on labeled completions.

A pair is a group of two rows, and the row with the larger reward is the chosen one (recorded pairs: 1 and 0). A labeled
completion is one row with reward 1 (desirable) or 0 (undesirable). In the equations y_w is the chosen completion of a
pair, y_l the rejected one, h(y) = log pi(y) - log ref(y) summed over the tokens of y, sigma the logistic function and
beta `objective.kl.coef`.

Each loss is one number per pair or row. It stands on the last action of the row, and on those of both rows of a pair:
aggregation sequence_sum (sum / number of rows) is then the mean over pairs or rows. Both rows of a pair must be in one
micro-batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlalign.errors import UserError
from rlalign.objective.batch import Batch
from rlalign.objective.checked_batch import prepare
from rlalign.objective.groups import Groups
from rlalign.objective.last_action import on_last_action
from rlalign.objective.registries import custom_loss
from rlalign.objective.spec import Objective
from rlalign.objective.token_rewards import environment_returns


@custom_loss("dpo")
def dpo(objective: Objective, batch: Batch) -> Tensor:
    r"""Return the loss of direct preference optimization, [N, T], to be minimized (arXiv 2305.18290, equation 7).

    .. math:: L = -(1 - \varepsilon) \log \sigma(m) - \varepsilon \log \sigma(-m), \quad m = \beta h(y_w) - \beta h(y_l)

    epsilon is preference.label_smoothing: conservative DPO, for labels that are flipped with this probability (Mitchell
    2023, https://ericmitchell.ai/cdpo.pdf). If P(y_w preferred to y_l) = sigma(r(y_w) - r(y_l)) and epsilon is 0, the
    optimum is pi ∝ ref · exp(r / beta).

    Args:
        objective: reads `kl.coef` and `preference.label_smoothing`.
        batch: a prepared batch of pairs with `logprobs` (with gradient) and `ref_logprobs`.
    """
    margins = _margins(implicit_rewards(objective, batch), batch)
    return on_last_action(_logistic(margins, objective.preference.label_smoothing), batch.action_mask)


@custom_loss("ipo")
def ipo(objective: Objective, batch: Batch) -> Tensor:
    r"""Return the loss of identity preference optimization, [N, T], to be minimized (arXiv 2310.12036, equation 17).

    .. math:: L = \left( \frac{h(y_w)}{|y_w|} - \frac{h(y_l)}{|y_l|} - \frac{1}{2 \beta} \right)^2

    The paper has no division by the lengths. Its experiments have it, according to a note in TRL on an exchange with
    the authors. preference.length_normalized false leaves it out. beta is tau in the paper. If both completions of a
    pair are drawn from mu, the optimum is h(y) / |y| = P(y preferred to mu) / beta + constant.

    Args:
        objective: reads `kl.coef` and `preference.length_normalized`.
        batch: a prepared batch of pairs with `logprobs` (with gradient) and `ref_logprobs`.
    """
    beta = objective.kl.coef
    margins = _margins(implicit_rewards(objective, batch), batch) / beta
    return on_last_action((margins - 1 / (2 * beta)).square(), batch.action_mask)


@custom_loss("kto")
def kto(objective: Objective, batch: Batch) -> Tensor:
    r"""Return the loss of Kahneman-Tversky optimization, [N, T], to be minimized (arXiv 2402.01306).

    .. math::

        L = w_d \left( 1 - \sigma(\beta h(y) - \beta z_0) \right) \text{ if } y \text{ is desirable, else }
            w_u \left( 1 - \sigma(\beta z_0 - \beta h(y)) \right)

    z_0 is `batch.reference_point`, without gradient. The paper writes lambda_y - v(y), with lambda for w.

    Args:
        objective: reads `kl.coef`, `preference.desirable_weight` and `preference.undesirable_weight`.
        batch: a prepared batch with `logprobs` (with gradient), `ref_logprobs` and `reference_point`.
    """
    p = objective.preference
    desirable = _preferred(objective, batch)
    advantage = _over_reference_point(objective, batch)
    losses = torch.where(
        desirable,
        p.desirable_weight * (1 - advantage.sigmoid()),
        p.undesirable_weight * (1 - (-advantage).sigmoid()),
    )
    return on_last_action(losses, batch.action_mask)


@custom_loss("simpo")
def simpo(objective: Objective, batch: Batch) -> Tensor:
    r"""Return the loss of simple preference optimization, [N, T], to be minimized (arXiv 2405.14734, equation 6).

    .. math::

        L = -(1 - \varepsilon) \log \sigma(m) - \varepsilon \log \sigma(-m), \quad
        m = \frac{\beta}{|y_w|} \log \pi(y_w) - \frac{\beta}{|y_l|} \log \pi(y_l) - \gamma

    beta is preference.scale, gamma preference.margin, and epsilon preference.label_smoothing, which the paper does not
    have and TRL does. There is no reference. TRL's `simpo_gamma` is gamma, and the paper tunes gamma / beta.

    Args:
        objective: reads `preference`.
        batch: a prepared batch of pairs with `logprobs` (with gradient).
    """
    p = objective.preference
    margins = _margins(implicit_rewards(objective, batch), batch) - p.margin
    return on_last_action(_logistic(margins, p.label_smoothing), batch.action_mask)


def implicit_rewards(objective: Objective, batch: Batch) -> Tensor:
    """Return the reward that a policy implies for each completion under a preference loss, float [N], with gradient.

    ::

        dpo, kto    beta · Σ_t (log pi - log ref)
        ipo         beta · the mean of log pi - log ref over tokens (length_normalized false: the sum)
        simpo       scale · the mean of log pi over tokens

    Args:
        objective: reads `loss`, `kl.coef` and `preference`.
        batch: a prepared batch with `logprobs`, and `ref_logprobs` except for simpo.
    """
    logprobs = batch.need("logprobs", f"loss {objective.loss}")
    lengths = batch.action_mask.sum(1).clamp(min=1)
    if objective.loss == "simpo":
        return objective.preference.scale * logprobs.sum(1) / lengths
    # the difference of each token first: two sums of hundreds of nats would cancel in float32
    log_ratios = (logprobs - batch.need("ref_logprobs", f"loss {objective.loss}")).sum(1)
    if objective.loss == "ipo" and objective.preference.length_normalized:
        log_ratios = log_ratios / lengths
    return objective.kl.coef * log_ratios


def reference_point(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    r"""Return the reference point z0 of KTO, a scalar of at least 0, without gradient (arXiv 2402.01306).

    .. math:: z_0 = \max \left( 0, \frac{1}{N} \sum_i \sum_t (\log \pi - \log \text{ref})(y'_{i,t}) \right)

    y'_i is a completion that belongs to another prompt of the batch, so that the log-ratio is not that of a completion
    in the loss. It estimates KL(pi‖ref), with bias, since the policy did not sample y'.

    Args:
        logprobs: float [N, T], log pi of mismatched completions.
        ref_logprobs: float [N, T], log ref of the same.
        mask: bool [N, T], true on their tokens; other columns may hold any numbers.

    Example:
        >>> import torch
        >>> logprobs = torch.tensor([[-1.0, -1.0], [-0.5, 7.0]])
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> reference_point(logprobs, logprobs - 0.5, mask)  # (1 + 0.5) / 2
        tensor(0.7500)
        >>> reference_point(logprobs, logprobs + 0.5, mask)
        tensor(0.)
    """
    log_ratios = (logprobs.detach() - ref_logprobs.detach()).where(mask, 0).sum(1)
    return log_ratios.mean().clamp(min=0)


@torch.no_grad()
def preference_rows(objective: Objective, batch: Batch) -> Batch:
    """Return the batch with `valid` narrowed to the rows of the loss, zero `advantages`, and labels as `returns`.

    A pair leaves the loss if one of its rows is not valid or has no action, or if its rewards are equal. A labeled
    completion leaves it if it has no action. No old or sampler log-probs are read.

    Args:
        objective: with a preference loss.
        batch: the whole batch of a step, not a part of it.

    Raises:
        UserError: a group of a loss on pairs does not have two rows, a label is not 0 or 1, or a tensor has the wrong
            shape.
        NonFiniteError: NaN or inf in a tensor; the error names it.
    """
    b = prepare(batch)
    assert b.valid is not None
    assert b.in_baseline is not None
    rewards = environment_returns(b)
    valid = b.valid & b.action_mask.any(1)
    if objective.needs_pairs:
        sizes = Groups.of(b.group_ids, torch.ones_like(valid), rewards.dtype).count()
        if bool((sizes != 2).any()):
            size = int(sizes[sizes != 2][0])
            raise UserError(
                f"loss {objective.loss} compares the two completions of a pair: expected two rows in each group, got "
                f"{size}; use rollout.group_size 2, or data of pairs"
            )
        groups = Groups.of(b.group_ids, valid, rewards.dtype)
        valid = valid & (groups.count() == 2) & groups.varied(rewards)
    elif bool(((rewards != 0) & (rewards != 1) & valid).any()):
        raise UserError(
            f"loss {objective.loss} learns from labels: expected rewards of 1 (desirable) or 0 (undesirable), got "
            f"{rewards[(rewards != 0) & (rewards != 1) & valid][0]:g}"
        )
    returns = rewards[:, None].where(b.action_mask & valid[:, None], 0)
    return replace(batch, advantages=torch.zeros_like(returns), returns=returns, valid=valid, in_baseline=b.in_baseline)


@torch.no_grad()
def preference_metrics(objective: Objective, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the metrics of a preference loss as name -> (sum, count), over the valid rows of a prepared batch.

    Implicit rewards are those of `implicit_rewards`. Means over the chosen (desirable) and the rejected (undesirable)
    completions: chosen_reward, rejected_reward, chosen_logprob, rejected_logprob. Means over pairs: margin, and
    accuracy, the share of pairs whose chosen completion has the larger implicit reward, where a margin of 0 counts as
    one half. For kto, accuracy is the share of rows whose implicit reward is on the right side of beta · z0, and
    reference_point is z0.

    Args:
        objective: with a preference loss.
        batch: a prepared batch that the loss accepts.
    """
    assert batch.valid is not None
    valid = batch.valid & batch.action_mask.any(1)
    rewards = implicit_rewards(objective, batch)
    logprobs = batch.need("logprobs", f"loss {objective.loss}").sum(1)
    preferred = _preferred(objective, batch)

    def mean(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return x.where(rows, 0).sum().to(logprobs.dtype), rows.sum().to(logprobs.dtype)

    metrics = {}
    for name, rows in (("chosen", valid & preferred), ("rejected", valid & ~preferred)):
        metrics[f"preference/{name}_reward"] = mean(rewards, rows)
        metrics[f"preference/{name}_logprob"] = mean(logprobs, rows)
    if objective.needs_pairs:
        margins = _margins(rewards, batch)
        metrics["preference/margin"] = mean(margins, valid & preferred)  # one row of each pair
        metrics["preference/accuracy"] = mean((margins.sign() + 1) / 2, valid & preferred)
    else:
        right = _over_reference_point(objective, batch) * torch.where(preferred, 1, -1)
        metrics["preference/accuracy"] = mean((right.sign() + 1) / 2, valid)
        metrics["preference/reference_point"] = mean(batch.need("reference_point", f"loss {objective.loss}"), valid)
    return metrics


def _logistic(margins: Tensor, label_smoothing: float) -> Tensor:
    """Return the negative log-likelihood of labels that are right with probability 1 - label_smoothing, [N]."""
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def _over_reference_point(objective: Objective, batch: Batch) -> Tensor:
    """Return the implicit reward of each row minus beta · z0, [N]; z0 has no gradient."""
    z0 = batch.need("reference_point", f"loss {objective.loss}").detach()
    return implicit_rewards(objective, batch) - objective.kl.coef * z0


def _preferred(objective: Objective, batch: Batch) -> Tensor:
    """Return true for desirable rows, and for the rows of pairs that have the larger reward, bool [N]."""
    rewards = environment_returns(batch)
    return rewards > (rewards[partners(batch)] if objective.needs_pairs else 0.5)


def _margins(x: Tensor, batch: Batch) -> Tensor:
    """Return x of the chosen row minus x of the rejected row of each pair, [N], the same number in both rows."""
    partner = partners(batch)
    rewards = environment_returns(batch)
    return torch.where(rewards > rewards[partner], x - x[partner], x[partner] - x)


def partners(batch: Batch) -> Tensor:
    """Return the index of the other row of each pair, int64 [N]; a row that is not valid is its own partner.

    Args:
        batch: reads `group_ids`, and `valid` from `preference_rows`.

    Raises:
        UserError: a valid row has no partner, such as in a micro-batch that divides a pair.
    """
    ids, valid = batch.group_ids, batch.valid
    assert valid is not None
    rows = valid.nonzero().flatten()
    order = rows[ids[rows].argsort(stable=True)]  # partners are neighbors
    first, second = order[0::2], order[1::2]
    if len(order) % 2 or bool((ids[first] != ids[second]).any() | (ids[first[1:]] == ids[second[:-1]]).any()):
        raise UserError("expected both rows of each pair in one part of the batch, got a row without its partner")
    partner = torch.arange(len(ids), device=ids.device)
    partner[first] = second
    partner[second] = first
    return partner

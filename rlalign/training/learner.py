"""The learner: from a rollout to optimizer steps. Only this module divides loss sums, by the count of the minibatch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlalign.config.schema import LearnerConfig
from rlalign.continual.ewc import EWC
from rlalign.errors import FaultError, UserError
from rlalign.objective import (
    Batch,
    LossSum,
    NonFiniteError,
    Objective,
    ObjectiveState,
    compute_advantages,
    likelihood_count,
    likelihood_loss,
    loss_count,
    policy_loss,
    value_count,
    value_loss,
)
from rlalign.policies.adapter_kinds.rank_schedule import rank_schedule
from rlalign.policies.base import Policy, ReferenceScorer
from rlalign.policies.scoring.packing import to_device
from rlalign.rollout.agreement import check_mismatch
from rlalign.rollout.collect import Rollout
from rlalign.rollout.source import TokenRows
from rlalign.training.allocator import keep_freed_memory
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.metric_sums import MetricSums
from rlalign.training.micro_batches import MicroBatcher
from rlalign.training.moments import allocate_moments
from rlalign.training.preparation import Preparation, reuses
from rlalign.training.update_buffer import UpdateBuffer
from rlalign.types import Sampling

LossTerm = tuple[Callable[[Batch], Tensor], Callable[[Batch], LossSum]]
"""(count, loss): the denominator of a minibatch, and the sum over a micro-batch that is divided by it."""


class DivergedError(FaultError):
    """The loss or its gradient is NaN or infinite; no optimizer step was taken."""


class Learner:
    """Updates a policy by an objective, with AdamW.

    Call `prepare` on a rollout, then `update` until the buffer is done, then `end_rollout`.

    Args:
        policy: its `trainable()` parameters are updated.
        objective: one value per axis.
        config: optimizer, micro-batches, reuse of rollouts.
        sampling: the distribution that actions were drawn from.
        total_updates: optimizer steps of the whole run, for the learning rate schedule.
        generator: shuffles rows into minibatches, on the CPU.
        max_length: L_max, the limit of action tokens per episode.
        reference: gives the log-probs of the KL's reference policy, such as a teacher; None: the initial policy.
        second_reference: of a second reference policy; the KL is then the mean of both. None: there is one only.
        ewc: a penalty whose gradient is added to that of each update; None: there is none.

    Raises:
        UserError: when the policy has no trainable parameter.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        config: LearnerConfig,
        *,
        sampling: Sampling,
        total_updates: int,
        generator: torch.Generator,
        max_length: int,
        reference: ReferenceScorer | None = None,
        second_reference: ReferenceScorer | None = None,
        ewc: EWC | None = None,
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.config = config
        self.generator = generator
        self.sampling = sampling
        if policy.device.type == "cpu":
            keep_freed_memory()  # of the whole process; see the module
        self.parameters = list(policy.trainable().values())
        value_ids = {id(p) for p in policy.value_trainable().values()}
        self.body = [p for p in self.parameters if id(p) not in value_ids]
        if not self.parameters:
            raise UserError("the policy has no trainable parameter; use --model.adapter.kind lora, or full fine-tuning")
        groups: list[dict[str, Any]] = [{"params": self.parameters}]
        if objective.value.lr > 0 and value_ids:
            value_parameters = [p for p in self.parameters if id(p) in value_ids]
            groups = [{"params": self.body}, {"params": value_parameters, "lr": objective.value.lr}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_factor(config, total_updates))
        self.state = ObjectiveState.start(objective)
        # a loss that compares the two rows of a pair needs both in one forward pass
        self.micro_batcher = MicroBatcher(policy, config.micro_batch, unit=2 if objective.needs_pairs else 1)
        self.preparation = Preparation(
            policy,
            objective,
            config,
            sampling,
            self.micro_batcher,
            max_length,
            reference=policy if reference is None else reference,
            second_reference=second_reference,
        )
        self.ewc = ewc
        self.ranks = rank_schedule(policy, total_updates)
        self.updates = 0
        self.steps_begun = self.steps_done = 0  # of the optimizer, in this process
        self.last_metrics: dict[str, float] = {}  # of the last update that reached its optimizer step

    # ---- before the updates ----

    def prepare(
        self,
        rollout: Rollout,
        *,
        greedy_rewards: Tensor | None = None,
        precomputed: dict[str, Tensor | None] | None = None,
        mismatched: TokenRows | None = None,
        recorded: bool = False,
    ) -> UpdateBuffer:
        """Compute the advantages of a rollout and plan its minibatches.

        Args:
            rollout: N trajectories.
            greedy_rewards: float [N], rewards of greedy completions of the same prompts, for that baseline.
            precomputed: the result of `preparation.precompute`; None: it is computed here.
            mismatched: prompts with completions of other prompts, for KTO's reference point.
            recorded: the rollout was recorded: its log-probs, if it has any, are those of another policy.
        """
        batch = self.preparation.batch(rollout, precomputed=precomputed, mismatched=mismatched, recorded=recorded)
        with torch.no_grad():
            batch = compute_advantages(self.objective, replace(batch, greedy_rewards=greedy_rewards), self.state)
        plan = self._plan(len(rollout))
        return UpdateBuffer(
            rollout.tokens, rollout.lengths, rollout.action_mask, batch, plan, sampled_by_policy=not recorded
        )

    def _plan(self, n: int) -> list[Tensor]:
        """Return the row indices of each update: one permutation per epoch, cut into minibatches.

        Logged rewards may have another number of rows in each step; the minibatches are then of nearly equal size.
        """
        if not reuses(self.config):
            return [torch.arange(n)]
        unit = self.micro_batcher.unit
        orders = [torch.randperm(n // unit, generator=self.generator) for _ in range(self.config.epochs)]
        # unlike `chunk`, it gives the configured number of parts, which the learning-rate schedule counts
        chunks = [units for order in orders for units in order.tensor_split(self.config.minibatches) if len(units)]
        return [(units[:, None] * unit + torch.arange(unit)).flatten() for units in chunks]

    # ---- updates ----

    def update(self, buffer: UpdateBuffer) -> dict[str, float]:
        """Take the next planned optimizer step; return train/ metrics.

        Args:
            buffer: of `prepare`, not done. Its `position` advances even if the step fails.

        Raises:
            DivergedError: the loss or its gradient is not finite; policy and optimizer are unchanged.
            FaultError: in the first update of a rollout, sampled and scored log-probs are not of one distribution.
        """
        rows = buffer.plan[buffer.position]
        first = buffer.position == 0
        buffer.position += 1
        sums = self.accumulate_gradient(buffer, rows)
        if self.ewc and not self.state.pretraining(self.objective):
            sums.add_penalty("ewc", self.ewc.add_gradient())
        grad_norm = self._clip_gradient()
        try:
            numbers = sums.means(grad_norm)  # the only wait for the device in an update
            self._check_finite(numbers["loss"], numbers["grad_norm"])
        except DivergedError:
            self.accumulate_gradient(buffer, rows, check_finite=True)  # again with checks, which name the tensor
            self.optimizer.zero_grad(set_to_none=True)
            raise
        metrics = {name if "/" in name else f"train/{name}": value for name, value in numbers.items()}
        mismatch = metrics.get("train/mismatch", 0.0)  # not computed while only the value is trained
        if first and buffer.sampled_by_policy:
            check_mismatch(mismatch, self.policy.compute_dtype, "the first update")
        self.last_metrics = {**metrics, "train/lr": float(self.schedule.get_last_lr()[0])}
        self._step()
        return self.last_metrics

    def accumulate_gradient(self, buffer: UpdateBuffer, rows: Tensor, *, check_finite: bool = False) -> MetricSums:
        """Accumulate the gradient of a minibatch over micro-batches; return the sums of loss and metrics.

        The micro-batch is halved until it fits into memory; the gradient does not depend on its size.

        Args:
            buffer: the rollout.
            rows: row indices of the minibatch.
            check_finite: check each tensor for NaN and infinity, which waits for the device.

        Raises:
            DivergedError: with `check_finite`, names the tensor.
        """
        # VC-PPO: during pretraining of the value the policy's body gets no gradient, and no weight decay either.
        frozen = self.body if self.state.pretraining(self.objective) else []
        try:
            with _without_gradient(frozen):
                backward = partial(self._backward, buffer, rows, check_finite=check_finite)
                return self.micro_batcher.within_memory(len(rows), backward)
        except NonFiniteError as error:
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(str(error)) from error

    def _backward(self, buffer: UpdateBuffer, rows: Tensor, *, check_finite: bool) -> MetricSums:
        objective = self.objective
        self.optimizer.zero_grad(set_to_none=True)
        minibatch = buffer.batch[to_device(rows, self.policy.device)]
        # The denominators are counts of the whole minibatch; masks and lengths give them before any forward pass.
        terms = [(count(minibatch).clamp(min=1), loss) for count, loss in self._loss_terms(check_finite=check_finite)]
        sums = MetricSums()
        for part in self.micro_batcher.split(rows, buffer.tokens, buffer.lengths, buffer.mask):
            micro = buffer.batch[to_device(part, self.policy.device)]
            scores = self.policy.score(
                buffer.tokens[part],
                buffer.lengths[part],
                buffer.mask[part],
                self.sampling,
                entropy=objective.needs_entropy,
                values=objective.needs_values,
            )
            # A rollout that is used once is on-policy by construction: the ratio is 1, and only its gradient counts.
            old = micro.old_logprobs if micro.old_logprobs is not None else scores.logprobs.detach()
            micro = replace(
                micro, logprobs=scores.logprobs, old_logprobs=old, entropies=scores.entropies, values=scores.values
            )
            total = torch.zeros((), device=self.policy.device)
            for count, loss in terms:
                part_sum = loss(micro)
                total = total + part_sum.total / count
                sums.add(part_sum)
            total.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            sums.loss += total.detach()
        penalty = self.ranks.penalty() if self.ranks else None
        if penalty is not None:
            penalty.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            sums.add_penalty("orthogonality", penalty.detach())
        return sums

    def _loss_terms(self, *, check_finite: bool) -> list[LossTerm]:
        """Return the terms of the objective that are trained in this step."""
        objective = self.objective
        terms: list[LossTerm] = []
        if not self.state.pretraining(objective):
            policy_term = partial(policy_loss, objective, state=self.state, finite=check_finite)
            terms.append((partial(loss_count, objective), policy_term))
            if objective.regularizer.nll_coef:
                terms.append((partial(likelihood_count, objective), partial(likelihood_loss, objective)))
        if objective.needs_values:
            terms.append((value_count, partial(value_loss, objective, finite=check_finite)))
        return terms

    def end_rollout(self, buffer: UpdateBuffer) -> None:
        """Update the objective's state (moving averages, KL coefficient) from a rollout, after its last update.

        All updates of a rollout are made with one KL coefficient. A batch with NaN or infinity changes nothing but the
        count of steps: its update has been skipped and reported.

        Args:
            buffer: the rollout, whose updates are done.
        """
        with torch.no_grad(), suppress(NonFiniteError):
            self.state.update(self.objective, buffer.batch)

    def supervised_update(self, demonstrations: TokenRows, weight: float) -> dict[str, float]:
        """Take one optimizer step on weight · mean over tokens of -log pi(answer token); return supervised/ metrics.

        Args:
            demonstrations: reference trajectories, as masked tokens.
            weight: factor of the loss.

        Raises:
            DivergedError: the loss or its gradient is not finite; policy and optimizer are unchanged.
        """
        rows = torch.arange(len(demonstrations.tokens))
        backward = partial(self._supervised_backward, demonstrations, rows, weight)
        nll = self.micro_batcher.within_memory(len(rows), backward)
        if self.ewc:
            self.ewc.add_gradient()
        nll_mean, grad_norm = torch.stack([nll, self._clip_gradient()]).tolist()  # one transfer for both
        self._check_finite(nll_mean, grad_norm)
        self._step(scheduled=False)
        return {"supervised/nll": nll_mean, "supervised/grad_norm": grad_norm}

    def _supervised_backward(self, demonstrations: TokenRows, rows: Tensor, weight: float) -> Tensor:
        """Accumulate the gradient of the supervised loss; return the mean of -log pi over the tokens."""
        d = demonstrations
        count = int(d.action_mask.sum())
        losses: list[Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)
        for part in self.micro_batcher.split(rows, d.tokens, d.lengths, d.action_mask):
            # The model's own distribution: answers were not sampled, so neither temperature nor truncation applies.
            scores = self.policy.score(d.tokens[part], d.lengths[part], d.action_mask[part], Sampling())
            nll = -scores.logprobs.sum() / count
            (weight * nll).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            losses.append(nll.detach())
        return torch.stack(losses).sum()

    def _clip_gradient(self) -> Tensor:
        """Clip the gradient by its norm; return the norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)

    def _check_finite(self, loss: float, grad_norm: float) -> None:
        if not (math.isfinite(grad_norm) and math.isfinite(loss)):
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(f"loss {loss}, gradient norm {grad_norm}")

    def _step(self, *, scheduled: bool = True) -> None:
        """Step the optimizer and, unless the update is supervised, the schedule."""
        allocate_moments(self.optimizer)
        self.steps_begun += 1  # an interruption inside the step leaves weights that are of no step
        self.optimizer.step()
        if scheduled:
            self.schedule.step()
            self.updates += 1
        if self.ranks and scheduled:
            self.ranks.after_step(self.updates)
        elif self.ranks:
            self.ranks.after_other_step()
        self.steps_done += 1
        self.optimizer.zero_grad(set_to_none=True)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer, schedule, counters and objective."""
        optimizer = self.optimizer.state_dict()
        return {
            "optimizer": {"state": optimizer["state"], "param_groups": optimizer["param_groups"]},
            "schedule": {"last_epoch": self.schedule.last_epoch, "lr": self.schedule.get_last_lr()},
            "objective": self.state.state_dict(),
            "updates": self.updates,
            "micro_batch": self.micro_batcher.micro_batch,
            **({"ranks": self.ranks.state_dict()} if self.ranks else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        # Hyper-parameters come from the configuration, not from the checkpoint: they are equal unless the user resumed
        # with --allow-change.
        rates = zip(self.optimizer.param_groups, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["initial_lr"] = base
            group["lr"] = base * factor(self.schedule.last_epoch)
            group["betas"] = (self.config.beta1, self.config.beta2)
            group["weight_decay"] = self.config.weight_decay
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.state.load_state_dict(state["objective"])
        self.updates = state["updates"]
        self.micro_batcher.micro_batch = state["micro_batch"]
        if self.ranks and "ranks" in state:
            self.ranks.load_state_dict(state["ranks"])


@contextmanager
def _without_gradient(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Turn the gradient of parameters off. The optimizer skips parameters without one, weight decay included."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

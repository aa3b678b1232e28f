"""Advantages to weights: the one place that divides losses, by one global count, and that steps the optimizer."""

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
from rlalign.policies.base import Policy
from rlalign.policies.scoring.packing import to_device
from rlalign.rollout.collect import Rollout
from rlalign.training.allocator import keep_freed_memory
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.metric_sums import Sums
from rlalign.training.micro_batches import MicroBatcher
from rlalign.training.supervised import Demonstrations
from rlalign.training.update_buffer import Buffer
from rlalign.types import Sampling

_MISMATCH = 1e-3  # |sampled − scored log-prob| in float32 above which sampler and policy are different distributions


class DivergedError(FaultError):
    """The loss or its gradient is NaN or infinite; no step was taken."""


class Learner:
    """Moves a policy by an objective.

    Args:
        policy: what is moved; its `trainable()` parameters.
        objective: the ten axes.
        config: optimizer, micro-batches, reuse.
        sampling: the distribution that actions were drawn from.
        total_updates: optimizer steps of the whole run, for the schedule.
        generator: shuffles minibatches.
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
    ) -> None:
        self.policy, self.objective, self.config = policy, objective, config
        self.generator, self.max_length = generator, max_length
        if policy.device.type == "cpu":
            keep_freed_memory()
        self.parameters = list(policy.trainable().values())
        of_value = {id(p) for p in policy.value_trainable().values()}
        self.body = [p for p in self.parameters if id(p) not in of_value]
        if not self.parameters:
            raise UserError("the policy has no trainable parameter: set --model.lora-r or train it in full")
        groups: list[dict[str, Any]] = [{"params": self.parameters}]
        if objective.value.lr > 0 and of_value:
            own = [p for p in self.parameters if id(p) in of_value]
            groups = [{"params": self.body}, {"params": own, "lr": objective.value.lr}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_factor(config, total_updates))
        self.state = ObjectiveState.start(objective)
        self.micro_batcher = MicroBatcher(policy, sampling, config.micro_batch)
        self.updates = 0

    # ---- before the updates ----

    def precompute_logprobs(self, tokens: Tensor, lengths: Tensor, mask: Tensor) -> dict[str, Tensor | None]:
        """The fields of a `Batch` that the axes ask of the models, whatever the rewards are: reference log-probs,
        values and old log-probs of a rollout's rows, given as they stand in a `Rollout`."""
        objective, found = self.objective, dict[str, Tensor | None]()
        recompute = self._reuses and self._recompute_old()
        with torch.no_grad():
            if objective.needs_reference:
                found["ref_logprobs"] = self.micro_batcher.all(
                    self.micro_batcher.reference, tokens, lengths, mask
                ).logprobs
            if objective.needs_values or recompute:
                score = partial(self.micro_batcher.score, values=objective.needs_values)
                scores = self.micro_batcher.all(score, tokens, lengths, mask)
                found |= {"old_values": scores.values, "final_values": scores.final_values}
                if recompute:
                    found["old_logprobs"] = scores.logprobs
        return found

    def prepare(
        self,
        rollout: Rollout,
        *,
        greedy_rewards: Tensor | None = None,
        seen: dict[str, Tensor | None] | None = None,
    ) -> Buffer:
        """Compute advantages and plan the minibatches; `seen` is what `look` found, if it was asked already."""
        objective, device = self.objective, self.policy.device
        if seen is None:
            seen = self.precompute_logprobs(rollout.tokens, rollout.lengths, rollout.action_mask)
        batch = Batch(
            action_mask=rollout.action_mask,
            rewards=rollout.rewards,
            group_ids=rollout.group_ids,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            sampler_logprobs=rollout.sampler_logprobs,
            greedy_rewards=greedy_rewards,
            valid=rollout.valid,
            max_length=self.max_length,
        ).to(device)
        batch = replace(batch, **seen)  # type: ignore[arg-type]  # `look` names tensors only
        if batch.old_logprobs is None and (self._reuses or self.config.old_logprobs == "sampler"):
            batch = replace(batch, old_logprobs=batch.sampler_logprobs)
        with torch.no_grad():
            learnt = compute_advantages(objective, batch, self.state)
        return Buffer(rollout.tokens, rollout.lengths, rollout.action_mask, learnt, self._plan(len(rollout)))

    @property
    def _reuses(self) -> bool:
        return self.config.epochs * self.config.minibatches > 1

    def _recompute_old(self) -> bool:
        choice = self.config.old_logprobs
        return choice == "recompute" or (choice == "auto" and self.policy.compute_dtype != torch.float32)

    def _plan(self, n: int) -> list[Tensor]:
        """Row indices of each update: every epoch a fresh permutation, cut into minibatches."""
        c = self.config
        if not self._reuses:
            return [torch.arange(n)]
        orders = [torch.randperm(n, generator=self.generator) for _ in range(c.epochs)]
        return [rows for order in orders for rows in order.chunk(c.minibatches)]

    # ---- one update ----

    def update(self, buffer: Buffer) -> dict[str, float]:
        """Take the next planned optimizer step; return train/ metrics.

        The objective's own state takes the rollout in after its last update, so that all of them see one coefficient.
        Raises DivergedError, with the policy and the optimizer untouched, when the loss or its gradient is not finite.
        """
        rows, first = buffer.plan[buffer.position], buffer.position == 0
        buffer.position += 1
        try:
            return self._update(buffer, rows, first=first)
        finally:
            if buffer.done:
                # a batch that is not finite cannot be taken in; what the update said of it is what is to be heard
                with torch.no_grad(), suppress(NonFiniteError):
                    self.state.update(self.objective, buffer.batch)

    def _update(self, buffer: Buffer, rows: Tensor, *, first: bool) -> dict[str, float]:
        sums = self._gradient(buffer, rows)
        norm = self._clip()
        try:
            numbers = sums.means(norm)  # the one time that an update waits for the device
            self._refuse_diverged(numbers["loss"], numbers["grad_norm"])
        except DivergedError:
            self._gradient(buffer, rows, finite=True)  # raises with the name of the tensor that is to blame, if one is
            self.optimizer.zero_grad(set_to_none=True)
            raise
        metrics = {f"train/{name}": value for name, value in numbers.items()}
        mismatch = metrics.get("train/mismatch", 0.0)  # not measured while only the value learns
        if first and self.policy.compute_dtype == torch.float32 and mismatch > _MISMATCH:
            raise FaultError(
                f"sampled and scored log-probs differ by {mismatch:.3g} nats a token on the first "
                "pass: sampler and policy are not the same distribution (try --rollout.sampler generate)"
            )
        return {**metrics, "train/lr": self._step()}

    def supervise(self, demonstrations: Demonstrations, weight: float) -> dict[str, float]:
        """Take one optimizer step on weight · mean over tokens of -log pi(answer token); return supervised/ metrics.

        Raises DivergedError as `update` does.
        """
        d = demonstrations
        count = int(d.action_mask.sum())
        losses: list[Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)
        rows = torch.arange(len(d.tokens))
        for part in self.micro_batcher.micro_batches(rows, d.tokens, d.lengths, d.action_mask):
            # the model's own distribution: answers were not sampled, so no temperature and no truncation
            scores = self.micro_batcher.score(d.tokens[part], d.lengths[part], d.action_mask[part], sampling=Sampling())
            nll = -scores.logprobs.sum() / count
            (weight * nll).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            losses.append(nll.detach())
        total, norm = torch.stack([torch.stack(losses).sum(), self._clip()]).tolist()
        self._refuse_diverged(total, norm)
        self._step(scheduled=False)
        return {"supervised/nll": total, "supervised/grad_norm": norm}

    def _clip(self) -> Tensor:
        """The norm of the gradient, which is then clipped."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf)

    def _refuse_diverged(self, loss: float, norm: float) -> None:
        if not (math.isfinite(norm) and math.isfinite(loss)):
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(f"loss {loss}, gradient norm {norm}")

    def _step(self, *, scheduled: bool = True) -> float:
        """Step and, where it counts, move the schedule on; return the learning rate."""
        lr = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        if scheduled:
            self.schedule.step()
            self.updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        return lr

    def _gradient(self, buffer: Buffer, rows: Tensor, *, finite: bool = False) -> Sums:
        """Accumulate the gradient over micro-batches; sums of all metrics."""

        def accumulate() -> Sums:
            self.optimizer.zero_grad(set_to_none=True)
            if not self.state.pretraining(self.objective):
                return self._accumulate(buffer, rows, finite=finite)
            with _frozen(self.body):
                return self._accumulate(buffer, rows, finite=finite)

        try:
            return self.micro_batcher.within_memory(accumulate, len(rows))
        except NonFiniteError as error:
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(str(error)) from error

    def _accumulate(self, buffer: Buffer, rows: Tensor, *, finite: bool = False) -> Sums:
        objective = self.objective
        whole = buffer.batch[to_device(rows, self.policy.device)]
        # the one place that divides: by the counts of the whole minibatch, known before any forward
        terms = [(count(whole).clamp(min=1), term) for count, term in self._terms(finite=finite)]
        sums = Sums()
        for part in self.micro_batcher.micro_batches(rows, buffer.tokens, buffer.lengths, buffer.mask):
            micro = buffer.batch[to_device(part, self.policy.device)]
            scores = self.micro_batcher.score(
                buffer.tokens[part],
                buffer.lengths[part],
                buffer.mask[part],
                entropy=objective.needs_entropy,
                values=objective.needs_values,
            )
            # A rollout used once is on-policy by construction: the ratio is 1 and only its gradient counts.
            old = micro.old_logprobs if micro.old_logprobs is not None else scores.logprobs.detach()
            micro = replace(
                micro, logprobs=scores.logprobs, old_logprobs=old, entropies=scores.entropies, values=scores.values
            )
            loss = torch.zeros((), device=self.policy.device)
            for count, term in terms:
                part_of = term(micro)
                loss = loss + part_of.total / count
                sums.add(part_of)
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            sums.loss += loss.detach()
        return sums

    def _terms(self, *, finite: bool) -> list[tuple[Callable[[Batch], Tensor], Callable[[Batch], LossSum]]]:
        """(count, loss) of each part of the objective that is trained now."""
        o = self.objective
        terms: list[tuple[Callable[[Batch], Tensor], Callable[[Batch], LossSum]]] = []
        if not self.state.pretraining(o):
            terms.append((partial(loss_count, o), partial(policy_loss, o, state=self.state, finite=finite)))
            if o.regularizer.nll_coef:
                terms.append((partial(likelihood_count, o), partial(likelihood_loss, o)))
        if o.needs_values:
            terms.append((value_count, partial(value_loss, o, finite=finite)))
        return terms

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, schedule, counters and the objective's own state."""
        optimizer = self.optimizer.state_dict()
        return {
            "optimizer": {"state": optimizer["state"], "param_groups": optimizer["param_groups"]},
            "schedule": {"last_epoch": self.schedule.last_epoch, "lr": self.schedule.get_last_lr()},
            "objective": self.state.state_dict(),
            "updates": self.updates,
            "micro_batch": self.micro_batcher.micro_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        # the configuration's settings, not the checkpoint's: they are the same unless the user insisted on a change
        rates = zip(self.optimizer.param_groups, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["initial_lr"], group["lr"] = base, base * factor(self.schedule.last_epoch)
            group["betas"], group["weight_decay"] = (self.config.beta1, self.config.beta2), self.config.weight_decay
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.state.load_state_dict(state["objective"])
        self.updates = state["updates"]
        self.micro_batcher.micro_batch = state["micro_batch"]


@contextmanager
def _frozen(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Without gradient, so that neither a loss nor weight decay moves them: the optimizer passes over them."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

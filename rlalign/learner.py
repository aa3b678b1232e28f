"""Advantages to weights: the one place that divides losses, by one global count, and that steps the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlalign.config import LearnerConfig
from rlalign.errors import FaultError, UserError
from rlalign.objective import Batch, LossSum, Objective, ObjectiveState, advantages, loss_count, policy_loss, value_loss
from rlalign.policies.base import Policy, TokenScores
from rlalign.rollout import Rollout
from rlalign.supervised import Demonstrations
from rlalign.types import Sampling

_MISMATCH = 1e-2  # |sampled − scored log-prob| in float32 above which sampler and policy are different distributions


@dataclass
class Buffer:
    """A rollout being learnt from: the tensors of the objective, the minibatches to come, and how far we are.

    It is part of a checkpoint, so that a run may stop between two updates of one rollout.
    """

    tokens: Tensor
    lengths: Tensor
    batch: Batch
    plan: list[Tensor]
    position: int = 0

    @property
    def done(self) -> bool:
        """All updates of this rollout are made."""
        return self.position >= len(self.plan)

    def state_dict(self) -> dict[str, Any]:
        """The buffer as tensors and JSON values."""
        return {
            "tokens": self.tokens,
            "lengths": self.lengths,
            "batch": self.batch.tensors(),
            "max_length": self.batch.max_length,
            "plan": self.plan,
            "position": self.position,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Buffer:
        """The buffer of a stored state, on a device."""
        batch = Batch(**state["batch"], max_length=state["max_length"]).to(device)
        return cls(state["tokens"].to(device), state["lengths"].to(device), batch, state["plan"], state["position"])


class NonFiniteError(FaultError):
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
        self.policy, self.objective, self.config, self.sampling = policy, objective, config, sampling
        self.generator, self.max_length = generator, max_length
        self.parameters = list(policy.trainable().values())
        if not self.parameters:
            raise UserError("the policy has no trainable parameter: set --model.lora-r or train it in full")
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _schedule(config, total_updates))
        self.state = ObjectiveState(objective)
        self.micro_batch = config.micro_batch
        self.updates = 0

    # ---- before the updates ----

    def prepare(self, rollout: Rollout, *, greedy_rewards: Tensor | None = None) -> Buffer:
        """Ask for what the axes need (reference, values, old log-probs), compute advantages, plan the minibatches."""
        objective, device = self.objective, self.policy.device
        tokens, lengths = rollout.tokens.to(device), rollout.lengths.to(device)
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
        plan = self._plan(len(rollout))
        with torch.no_grad():
            if objective.needs_reference:
                batch = replace(
                    batch, ref_logprobs=self.policy.reference_logprobs(tokens, lengths, batch.action_mask, self.sampling)
                )
            recompute = len(plan) > 1 and self._recompute_old()
            if objective.needs_values or recompute:
                scores = self._score(tokens, lengths, batch.action_mask, values=objective.needs_values)
                batch = replace(batch, old_values=scores.values, final_values=scores.final_values)
                if recompute:
                    batch = replace(batch, old_logprobs=scores.logprobs)
            if batch.old_logprobs is None and len(plan) > 1:
                batch = replace(batch, old_logprobs=batch.sampler_logprobs)
            batch = advantages(objective, batch, self.state)
        return Buffer(tokens, lengths, batch, plan)

    def _recompute_old(self) -> bool:
        choice = self.config.old_logprobs
        return choice == "recompute" or (choice == "auto" and self.policy.compute_dtype != torch.float32)

    def _plan(self, n: int) -> list[Tensor]:
        """Row indices of each update: every epoch a fresh permutation, cut into minibatches."""
        c = self.config
        if c.epochs * c.minibatches == 1:
            return [torch.arange(n)]
        orders = [torch.randperm(n, generator=self.generator) for _ in range(c.epochs)]
        return [rows for order in orders for rows in order.chunk(c.minibatches)]

    # ---- one update ----

    def update(self, buffer: Buffer) -> dict[str, float]:
        """Take the next planned optimizer step; return train/ metrics.

        Raises NonFiniteError, with the policy and the optimizer untouched, when the loss or its gradient is not finite.
        """
        rows = buffer.plan[buffer.position]
        first = buffer.position == 0
        sums = self._gradient(buffer, rows, first)
        metrics = {f"train/{k}": (total / count.clamp(min=1)).item() for k, (total, count) in sums.items()}
        if first and self.policy.compute_dtype == torch.float32 and metrics["train/sampler_mismatch"] > _MISMATCH:
            raise FaultError(
                f"sampled and scored log-probs differ by {metrics['train/sampler_mismatch']:.3g} nats a token on the first "
                "pass: sampler and policy are not the same distribution"
            )
        try:
            return {**metrics, **self._step(metrics["train/loss"])}
        finally:
            buffer.position += 1

    def supervise(self, demonstrations: Demonstrations, weight: float) -> dict[str, float]:
        """Take one optimizer step on weight · mean over tokens of -log pi(answer token); return supervised/ metrics.

        Raises NonFiniteError as `update` does.
        """
        device = self.policy.device
        tokens, lengths = demonstrations.tokens.to(device), demonstrations.lengths.to(device)
        mask = demonstrations.action_mask.to(device)
        count = mask.sum()
        total = 0.0
        self.optimizer.zero_grad(set_to_none=True)
        for part in torch.arange(len(tokens)).split(self.micro_batch or len(tokens)):
            # the model's own distribution: answers were not sampled, so no temperature and no truncation
            scores = self._score(tokens[part], lengths[part], mask[part], sampling=Sampling())
            nll = -scores.logprobs.sum() / count
            (weight * nll).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            total += nll.item()
        return {"supervised/nll": total, "supervised/grad_norm": self._step(total)["train/grad_norm"]}

    def _step(self, loss: float) -> dict[str, float]:
        """Clip, step and move the schedule on, unless the loss or the gradient is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf).item()
        if not (math.isfinite(norm) and math.isfinite(loss)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(f"loss {loss}, gradient norm {norm}")
        lr = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return {"train/grad_norm": norm, "train/lr": lr}

    def _gradient(self, buffer: Buffer, rows: Tensor, first: bool) -> dict[str, tuple[Tensor, Tensor]]:
        """Accumulate the gradient over micro-batches, halving them when memory runs out; sums of all metrics."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulate(buffer, rows, first)
            except torch.cuda.OutOfMemoryError:
                size = self.micro_batch or len(rows)
                if size == 1:
                    raise
                self.micro_batch = size // 2
                torch.cuda.empty_cache()

    def _accumulate(self, buffer: Buffer, rows: Tensor, first: bool) -> dict[str, tuple[Tensor, Tensor]]:
        objective = self.objective
        batch = buffer.batch[rows]
        policy_count = loss_count(objective, batch).clamp(min=1)
        tokens_count = _valid_actions(batch).sum().clamp(min=1)
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        value_only = self.updates < objective.value.pretrain_steps
        for part in self._micro_batches(rows, buffer.lengths):
            micro = buffer.batch[part]
            scores = self._score(
                buffer.tokens[part], buffer.lengths[part], micro.action_mask,
                entropy=objective.needs_entropy, values=objective.needs_values,
            )  # fmt: skip
            # A rollout used once is on-policy by construction: the ratio is 1 and only its gradient counts.
            old = micro.old_logprobs if micro.old_logprobs is not None else scores.logprobs.detach()
            micro = replace(
                micro, logprobs=scores.logprobs, old_logprobs=old, entropies=scores.entropies, values=scores.values
            )
            loss = torch.zeros((), device=self.policy.device)
            if not value_only:
                part_loss = policy_loss(objective, micro)
                loss = loss + part_loss.total / policy_count
                _merge(sums, part_loss, policy_count, "policy_loss")
            if objective.needs_values:
                part_value = value_loss(objective, micro)
                loss = loss + objective.value.coef * part_value.total / tokens_count
                _merge(sums, part_value, tokens_count, "value_loss")
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            _add(sums, "loss", loss.detach(), torch.zeros_like(loss.detach()))
            if first and micro.sampler_logprobs is not None:
                gap = (scores.logprobs.detach() - micro.sampler_logprobs).abs()
                _add(sums, "sampler_mismatch", (gap * micro.action_mask).sum(), micro.action_mask.sum())
        return sums

    def _micro_batches(self, rows: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        size = self.micro_batch or len(rows)
        if size >= len(rows):
            yield rows
            return
        # rows of like length together: less padding, the same sums
        order = rows[torch.argsort(lengths[rows.to(lengths.device)].cpu(), stable=True)]
        yield from order.split(size)

    def _score(
        self,
        tokens: Tensor,
        lengths: Tensor,
        mask: Tensor,
        *,
        entropy: bool = False,
        values: bool = False,
        sampling: Sampling | None = None,
    ) -> TokenScores:
        """Score the columns that these rows reach; the rest is 0."""
        width, full = int(lengths.max()), tokens.shape[1]
        s = self.policy.score(
            tokens[:, :width], lengths, mask[:, :width], sampling or self.sampling, entropy=entropy, values=values
        )
        if width == full:
            return s
        pad = (0, full - width)
        widen = torch.nn.functional.pad
        return TokenScores(
            logprobs=widen(s.logprobs, pad),
            entropies=None if s.entropies is None else widen(s.entropies, pad),
            values=None if s.values is None else widen(s.values, pad),
            final_values=s.final_values,
        )

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, schedule, counters and the objective's own state."""
        optimizer = self.optimizer.state_dict()
        return {
            "optimizer": {"state": optimizer["state"], "param_groups": optimizer["param_groups"]},
            "schedule": {"last_epoch": self.schedule.last_epoch, "lr": self.schedule.get_last_lr()},
            "objective": self.state.state_dict(),
            "updates": self.updates,
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.schedule._last_lr = list(state["schedule"]["lr"])
        self.state.load_state_dict(state["objective"])
        self.updates = state["updates"]
        self.micro_batch = state["micro_batch"]


def _schedule(config: LearnerConfig, total: int) -> Any:
    def factor(update: int) -> float:
        if update < config.warmup:
            return (update + 1) / config.warmup
        if config.lr_schedule == "constant":
            return 1.0
        share = min(1.0, (update - config.warmup) / max(1, total - config.warmup))
        return 1.0 - share if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))

    return factor


def _valid_actions(batch: Batch) -> Tensor:
    return batch.action_mask if batch.valid is None else batch.action_mask & batch.valid[:, None]


def _add(sums: dict[str, tuple[Tensor, Tensor]], name: str, total: Tensor, count: Tensor) -> None:
    old = sums.get(name)
    sums[name] = (total, count) if old is None else (old[0] + total, old[1] + count)


def _merge(sums: dict[str, tuple[Tensor, Tensor]], loss: LossSum, count: Tensor, name: str) -> None:
    # already divided by the global count, so the parts add up to the whole
    _add(sums, name, (loss.total / count).detach(), torch.zeros_like(count, dtype=torch.float32))
    for key, (total, number) in loss.metrics.items():
        _add(sums, key, total, number)

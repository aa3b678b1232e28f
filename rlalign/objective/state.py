"""What an objective remembers between steps. The mathematics stays pure: it reads this, only `update` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlalign.objective.batch import Batch
from rlalign.objective.checked_batch import prepare
from rlalign.objective.spec import Objective


@dataclass(slots=True)
class ObjectiveState:
    """The moving parts of an objective.

    Attributes:
        kl_coef: the current beta.
        ema: moving average of the mean return; None before the first batch.
        steps: batches seen.
    """

    kl_coef: float
    ema: float | None = None
    steps: int = 0

    @classmethod
    def start(cls, objective: Objective) -> ObjectiveState:
        """The state before the first step."""
        return cls(kl_coef=objective.kl.coef)

    def pretraining(self, objective: Objective) -> bool:
        """True while only the value learns (VC-PPO, arXiv 2503.01491): in the first pretrain_steps steps.

        Asked before the step's batch is taken in by `update`.
        """
        return objective.value.pretrain_steps > 0 and self.steps < objective.value.pretrain_steps

    def update(self, objective: Objective, batch: Batch) -> None:
        """Take in the whole batch of a step, after its advantages and losses were computed with the state as it was.

        ema = decay · ema + (1 - decay) · mean return. With kl.target > 0 (arXiv 1909.08593):
        beta *= 1 + clip(KL/target - 1, ±0.2) · n/horizon, KL in nats per completion, n the completions. A batch that is
        not finite is counted and raises NonFiniteError.
        """
        from rlalign.objective.loss import token_rewards

        self.steps += 1
        b = prepare(batch)
        assert b.in_baseline is not None
        n = int(b.in_baseline.sum())
        if n == 0:
            return
        mean = float(token_rewards(objective, b, self).sum(1)[b.in_baseline].mean())
        self.ema = mean if self.ema is None else objective.ema_decay * self.ema + (1 - objective.ema_decay) * mean
        if objective.kl.target > 0:
            drawn = b.old_logprobs if b.old_logprobs is not None else b.need("sampler_logprobs", "the adaptive KL")
            kl = float((drawn - b.need("ref_logprobs", "the adaptive KL")).sum(1)[b.in_baseline].mean())
            error = min(max(kl / objective.kl.target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * n / objective.kl.horizon

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for the checkpoint."""
        return {"kl_coef": self.kl_coef, "ema": self.ema, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.kl_coef, self.ema, self.steps = state["kl_coef"], state["ema"], state["steps"]

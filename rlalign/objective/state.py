"""The state that an objective carries between steps: beta of the KL, the moving-average baseline, the step count.

The functions of this package read the state. Only `update` changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlalign.objective.batch import Batch
from rlalign.objective.checked_batch import prepare
from rlalign.objective.kl import mean_over
from rlalign.objective.spec import Objective
from rlalign.objective.token_rewards import token_rewards


@dataclass(slots=True)
class ObjectiveState:
    """The numbers of an objective that change during training.

    Attributes:
        kl_coef: the current beta.
        ema: moving average of the mean return; None before the first batch.
        steps: number of batches so far.
    """

    kl_coef: float
    ema: float | None = None
    steps: int = 0

    @classmethod
    def start(cls, objective: Objective) -> ObjectiveState:
        """Return the state before the first step: `kl_coef` is `objective.kl.coef`."""
        return cls(kl_coef=objective.kl.coef)

    def pretraining(self, objective: Objective) -> bool:
        """Return whether only the value learns (VC-PPO, arXiv 2503.01491): in the first value.pretrain_steps steps.

        Call it before `update` counts the step's batch.
        """
        return objective.value.pretrain_steps > 0 and self.steps < objective.value.pretrain_steps

    def update(self, objective: Objective, batch: Batch) -> None:
        """Update beta, the moving average and the step count with the whole batch of a step.

        ::

            ema  ← ema_decay · ema + (1 - ema_decay) · mean return           (the mean return in the first batch)
            beta ← beta · (1 + clip(KL/target - 1, -0.2, 0.2) · n/horizon)   (kl.target > 0; arXiv 1909.08593)

        KL is the mean of Σ_t (log pi - log ref) in nats per completion, pi the policy at the start of the update, n the
        number of completions; with two references the mean of both such sums. Rows outside the baseline do not count.
        Call it once per step, after the advantages and losses of the batch, which use the state before the update. A
        preference loss changes the step count alone: its beta is constant, and its labels are no returns.

        Args:
            objective: reads `ema_decay`, `kl` and `filter`.
            batch: the whole batch of a step, with the log-probs that the KL needs.

        Raises:
            NonFiniteError: NaN or inf in a tensor. The step is counted all the same.
            UserError: a tensor that the KL needs is missing.
        """
        self.steps += 1
        if objective.is_preference:
            return
        b = prepare(batch)
        assert b.in_baseline is not None
        n = int(b.in_baseline.sum())
        if n == 0:
            return
        mean = float(token_rewards(objective, b, self.kl_coef).sum(1)[b.in_baseline].mean())
        self.ema = mean if self.ema is None else objective.ema_decay * self.ema + (1 - objective.ema_decay) * mean
        if objective.kl.target > 0:
            logprobs = b.old_logprobs if b.old_logprobs is not None else b.need("sampler_logprobs", "the adaptive KL")
            k1 = mean_over(b.references("the adaptive KL"), lambda reference: logprobs - reference)
            kl = float(k1.sum(1)[b.in_baseline].mean())
            error = min(max(kl / objective.kl.target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * n / objective.kl.horizon

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers for the checkpoint."""
        return {"kl_coef": self.kl_coef, "ema": self.ema, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the numbers of `state_dict()`."""
        self.kl_coef = state["kl_coef"]
        self.ema = state["ema"]
        self.steps = state["steps"]

"""The end of training at a KL budget, before a policy exploits its reward."""

from __future__ import annotations

from collections.abc import Mapping

HELD_OUT_KL = "eval/kl"
TRAINING_KL = "rollout/kl"
STOPPED = "train/stop_kl"


def budget_key(every: int) -> str:
    """Return the metric that the budget is compared with.

    Args:
        every: steps between validations. Above 0, the KL on held-out prompts is read; it is measured after the step's
            updates. Otherwise the KL of the training samples, which were drawn before them.
    """
    return HELD_OUT_KL if every else TRAINING_KL


def exceeds(kl: float | None, budget: float) -> bool:
    """Return whether a KL is above the budget; False for a missing or NaN one, and for the budget 0, which is none."""
    return bool(budget) and kl is not None and kl > budget


class KLBudget:
    """The KL budget of a run, and whether the run has passed it. Its state is part of a checkpoint.

    Args:
        budget: KL to the reference policy in nats per completion; 0: none.
        every: steps between validations, see `budget_key`.
    """

    def __init__(self, budget: float, every: int) -> None:
        self.budget = budget
        self.key = budget_key(every)
        self.step = 0
        self.kl = 0.0

    def record(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Record the KL of a step and return the metric to log: `train/stop_kl`, 1 if the run ends here, else 0.

        Nothing is returned without a budget, or in a step that did not measure the KL.

        Args:
            step: the number of the step.
            metrics: of the step.
        """
        kl = metrics.get(self.key)
        if not self.budget or kl is None:
            return {}
        if exceeds(kl, self.budget):
            self.step = step
            self.kl = kl
        return {STOPPED: float(self.should_stop)}

    @property
    def should_stop(self) -> bool:
        """Whether a step has passed the budget."""
        return exceeds(self.kl, self.budget)

    def state_dict(self) -> dict[str, float]:
        """Return the step that passed the budget and its KL; both 0 before."""
        return {"step": self.step, "kl": self.kl}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.step = int(state["step"])
        self.kl = float(state["kl"])

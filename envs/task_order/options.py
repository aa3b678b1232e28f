"""The settings of the order of tasks, `tasks.*`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rlalign.errors import UserError
from rlalign.registry import TASK_ORDERS
from rlalign.typecheck import check_range


@dataclass(frozen=True)
class TaskOptions:
    """Order of the training tasks, and the shares of environments in a mixture."""

    order: str = "shuffled"
    """Order of the tasks of an environment. shuffled: a new permutation per epoch; sequential: as in the data;
    difficulty: pools of easy, medium and hard tasks by running success (finite data only); or module:attr or
    file.py:attr, a task sampler."""
    mixing: Literal["weights", "difficulty"] = "weights"
    """Shares of the environments of a mixture. weights: those of --env, exactly; difficulty: pools of easy, medium and
    hard environments by running success."""
    temperature: float | None = None
    """Temperature T of a mixture: shares are proportional to weight^(1/T), without weights to the number of training
    tasks^(1/T); above 0. None: to the weights, and without weights equal."""
    success: float | None = None
    """Reward from which a completion is a success, for difficulty pools. None: the environment's gold score, or a
    verifier among its rewards that is 1."""
    easy: float = 0.8
    """Running success from which a task is easy, in (0, 1]; read by difficulty pools."""
    hard: float = 0.2
    """Running success below which a task is hard, in [0, 1) and below tasks.easy; read by difficulty pools."""
    medium_share: float = 0.8
    """Share of the prompts from the medium pool, in [1/3, 1). The easy and the hard pool have half of the rest each,
    which is their floor; the share of an empty pool is divided among the others in proportion."""
    decay: float = 0.7
    """Weight that former samples of a task keep in its running success at each further visit, in [0, 1); read by
    difficulty pools."""

    @property
    def by_difficulty(self) -> bool:
        """Whether tasks or environments are taken from difficulty pools."""
        return "difficulty" in (self.order, self.mixing)

    def validate(self) -> None:
        """Raise UserError for a setting out of range, or for an order that nothing names."""
        TASK_ORDERS.get(self.order)
        if self.temperature is not None:
            check_range("tasks.temperature", self.temperature, above=0)
        if self.success is not None and not math.isfinite(self.success):
            raise UserError(f"tasks.success: expected a finite reward, got {self.success}; use a number such as 1")
        check_range("tasks.hard", self.hard, least=0, below=1)
        check_range("tasks.easy", self.easy, above=0, most=1)
        if self.hard >= self.easy:
            raise UserError(
                f"tasks.hard {self.hard:g}: expected less than tasks.easy {self.easy:g}; use --tasks.hard 0.2 "
                "--tasks.easy 0.8"
            )
        check_range("tasks.medium_share", self.medium_share, least=1 / 3, below=1)
        check_range("tasks.decay", self.decay, least=0, below=1)

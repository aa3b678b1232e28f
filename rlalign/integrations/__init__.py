"""Other libraries, met half-way: their trainers on our environments, our rewards and tasks in their trainers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlalign.algorithms import OUTSIDE

if TYPE_CHECKING:
    from rlalign.config.schema import TrainConfig
    from rlalign.envs.mdp import TextMDP
    from rlalign.evaluation.before_after import Comparison
    from rlalign.run import Run


def check_any(config: TrainConfig) -> None:
    """Refuse, before anything is made, what a run of this configuration would refuse. Raises UserError."""
    from rlalign.config.instantiate import check_policy
    from rlalign.training.experiment import ready_mdp

    mdp = ready_mdp(config)
    if config.algorithm in OUTSIDE:
        from rlalign.integrations.trl.settings import check_trl

        check_trl(config, mdp)
    check_policy(config, mdp)


def train_any(
    config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None, quiet: bool = False
) -> tuple[Run, Comparison | None]:
    """A whole run by the trainer that the algorithm names: TRL's for `trl:...`, else ours (see `train_run`)."""
    if config.algorithm in OUTSIDE:
        from rlalign.integrations.trl import train_trl

        run = train_trl(config, env=env, rewards=rewards, quiet=quiet)
        return run, run.comparison
    from rlalign.training.experiment import train_run

    return train_run(config, env=env, rewards=rewards, quiet=quiet)

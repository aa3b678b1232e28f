"""`rlalign generate RUN TEXT`: complete a prompt with a trained policy, until the reward reaches a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Args:
    """Complete a prompt with a run's trained policy."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    text: tyro.conf.Positional[str]
    """Prompt."""
    until: float | None = None
    """Sample again until the reward reaches this level; None: sample once."""
    max_tries: int = 16
    """Largest number of completions."""
    column: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE of a column that the run's rewards read, such as answer=cba; repeatable."""
    seed: int = 0
    """Seed of the sampling."""
    temperature: float | None = None
    """Sampling temperature, above 0; None: the run's."""


def run(args: Sequence[str]) -> int:
    """Print a completion and its reward; return 1 if no completion reached the level, otherwise 0."""
    arguments = tyro.cli(Args, args=list(args), prog="rlalign generate")
    from rlalign.errors import MissingColumnError, UserError
    from rlalign.rollout.generation import generate
    from rlalign.run import Run
    from rlalign.types import Sampling

    trained = Run(arguments.run)
    policy = trained.policy
    mdp = trained.build_mdp()
    sampling = trained.config.rollout.sampling
    if arguments.temperature is not None:
        sampling = Sampling(arguments.temperature, sampling.top_k, sampling.top_p)
    columns: dict[str, str] = {}
    for column in arguments.column:
        name, equals, value = column.partition("=")
        if not equals:
            raise UserError(f"--column: expected NAME=VALUE, got '{column}'")
        columns[name] = value
    try:
        result = generate(
            policy,
            mdp,
            arguments.text,
            columns,
            sampling=sampling,
            seed=arguments.seed,
            until=arguments.until,
            max_tries=arguments.max_tries,
        )
    except MissingColumnError as error:
        raise UserError(f"reward '{error.reward}' needs '{error.column}': add --column {error.column}=...") from error
    print(arguments.text + result.text)
    components = ", ".join(f"{name} {value:+.2f}" for name, value in result.components.items())
    reward = f"reward {result.reward:+.3f} ({components})"
    tries = f"{result.tries} {'try' if result.tries == 1 else 'tries'}"
    if arguments.until is None:
        print(f"\n{reward}")
        return 0
    if result.reached:
        print(f"\n{reward} reached {arguments.until:+.3f} in {tries}")
        return 0
    print(f"\n{reward} is the best of {tries}; {arguments.until:+.3f} was not reached")
    return 1

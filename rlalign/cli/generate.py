"""`rlalign generate RUN TEXT`: continue a text, again until the reward reaches a level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Args:
    """Continue a text with a run's policy."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    text: tyro.conf.Positional[str]
    """Prompt."""
    until: float | None = None
    """Generate again until the run's reward reaches this level."""
    max_tries: int = 16
    """Completions at most."""
    column: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE that the run's rewards need, such as answer=cba; repeatable."""
    seed: int = 0
    """Of what is drawn."""
    temperature: float | None = None
    """Of the sampling, above 0; None: the run's."""


def run(args: Sequence[str]) -> int:
    """Generate; exit status 1 when the level was not reached."""
    given = tyro.cli(Args, args=list(args), prog="rlalign generate")
    from rlalign.errors import MissingColumnError, UserError
    from rlalign.rollout.generation import generate
    from rlalign.run import Run
    from rlalign.types import Sampling

    run_ = Run(given.run)
    policy = run_.policy
    mdp = run_.build_mdp()
    sampling = run_.config.rollout.sampling
    if given.temperature is not None:
        sampling = Sampling(given.temperature, sampling.top_k, sampling.top_p)
    odd = [c for c in given.column if "=" not in c]
    if odd:
        raise UserError(f"--column '{odd[0]}' is no NAME=VALUE")
    try:
        found = generate(
            policy,
            mdp,
            given.text,
            dict(c.split("=", 1) for c in given.column),
            sampling=sampling,
            seed=given.seed,
            until=given.until,
            max_tries=given.max_tries,
        )
    except MissingColumnError as error:
        raise UserError(f"reward '{error.reward}' needs '{error.column}': add --column {error.column}=...") from error
    print(given.text + found.text)
    parts = ", ".join(f"{k} {v:+.2f}" for k, v in found.components.items())
    tries = f"{found.tries} {'try' if found.tries == 1 else 'tries'}"
    if given.until is None:
        print(f"\nreward {found.reward:+.3f} ({parts})")
        return 0
    if found.reached:
        print(f"\nreward {found.reward:+.3f} ({parts}) reached {given.until:+.3f} in {tries}")
        return 0
    print(f"\nreward {found.reward:+.3f} ({parts}) is the best of {tries}; {given.until:+.3f} was not reached")
    return 1

"""Functions for each environment of a mixture, or for the only one."""

from __future__ import annotations

from collections.abc import Callable

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.errors import UserError, did_you_mean


def parts_of(mdp: TextMDP) -> dict[str, TextMDP]:
    """Return name -> environment of a mixture; of another environment, the empty name -> itself."""
    return dict(mdp.parts) if isinstance(mdp, Mixture) else {"": mdp}


def for_each(mdp: TextMDP, change: Callable[[TextMDP], TextMDP]) -> TextMDP:
    """Return the environment, or the mixture, with each environment replaced by `change` of it."""
    return mdp.map(change) if isinstance(mdp, Mixture) else change(mdp)


def environment_of(mdp: TextMDP, name: str | None) -> TextMDP:
    """Return one environment of a mixture by its name; None: the only environment.

    Raises:
        UserError: there are several environments and none of this name, or there is one and a name is given.
    """
    parts = parts_of(mdp)
    if name is None and isinstance(mdp, Mixture):
        names = ", ".join(parts)
        raise UserError(f"--env: expected one of the environments {names}, got none; use --env {next(iter(parts))}")
    if (name or "") not in parts:
        known = list(parts) if isinstance(mdp, Mixture) else [mdp.id]
        raise UserError(
            f"--env: expected one of the environments {', '.join(known)}, got '{name}'.{did_you_mean(str(name), known)}"
        )
    return parts[name or ""]


def single(mdp: TextMDP, purpose: str) -> TextMDP:
    """Return the environment.

    Args:
        mdp: the environment.
        purpose: what needs a single one, for the message.

    Raises:
        UserError: it is a mixture.
    """
    if isinstance(mdp, Mixture):
        raise UserError(f"{purpose}: expected one environment, got {mdp.id}; use each of them alone")
    return mdp

"""Functions for each environment of a mixture, or for the only one."""

from __future__ import annotations

from collections.abc import Callable

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture


def parts_of(mdp: TextMDP) -> dict[str, TextMDP]:
    """Return name -> environment of a mixture; of another environment, the empty name -> itself."""
    return dict(mdp.parts) if isinstance(mdp, Mixture) else {"": mdp}


def for_each(mdp: TextMDP, change: Callable[[TextMDP], TextMDP]) -> TextMDP:
    """Return the environment, or the mixture, with each environment replaced by `change` of it."""
    return mdp.map(change) if isinstance(mdp, Mixture) else change(mdp)

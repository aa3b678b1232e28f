"""Several reward models as one: their mean, their minimum, or their mean minus their disagreement.

A Bradley-Terry score is known up to a constant, which differs between the members. The center of each member is
therefore subtracted before they are compared. Source: Coste et al., arXiv 2310.02743.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from rlalign.errors import UserError, did_you_mean
from rlalign.rewards.combine import combine
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.types import FloatArray

How = Literal["mean", "min", "penalised"]
HOW: tuple[How, ...] = ("mean", "min", "penalised")


class Scorer(Protocol):
    """Scores samples."""

    def scores(self, samples: Sequence[Sample]) -> FloatArray:
        """Return the scores of N samples, [N]."""
        ...


@dataclass(frozen=True)
class EnsembleScorer:
    """An ensemble of reward models.

    Attributes:
        members: the models.
        centers: mean score of each on the training completions, [K].
        how: mean, min or penalised (mean - coef · standard deviation).
        coef: weight of the disagreement.
    """

    members: Sequence[Any]
    centers: Sequence[float]
    how: str = "mean"
    coef: float = 1.0

    def scores(self, samples: Sequence[Sample]) -> FloatArray:
        """Return the combined scores of N samples, [N]."""
        return self.combined(self.member_scores(samples), self.how, self.coef)

    def member_scores(self, samples: Sequence[Sample]) -> FloatArray:
        """Return the centered scores of each member, [K, N]."""
        return np.stack([m.scores(samples) - c for m, c in zip(self.members, self.centers, strict=True)])

    def combined(self, values: FloatArray, how: str | None = None, coef: float | None = None) -> FloatArray:
        """Return one score per sample from those of the members, [K, N] -> [N]."""
        return combine(values, check_how(how or self.how), self.coef if coef is None else coef)


def check_how(how: str) -> str:
    """Return the name of a combination. Raises UserError if it is unknown."""
    if how not in HOW:
        raise UserError(
            f"reward model: expected how to be one of {', '.join(HOW)}, got '{how}'.{did_you_mean(how, HOW)}"
        )
    return how

"""Log-likelihoods of a comparison with ties, with their first and second derivatives.

x is the difference of the strengths of two policies, plus the covariates; the second parameter describes ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from rlalign.feedback.statistics.judgments import LOSS, TIE, WIN
from rlalign.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Values per row.

    Attributes:
        value: log-likelihood.
        x: derivative by x.
        tie: derivative by the parameter of ties.
        xx: second derivative by x.
        x_tie: mixed derivative.
        tie_tie: second derivative by the parameter of ties.
    """

    value: FloatArray
    x: FloatArray
    tie: FloatArray
    xx: FloatArray
    x_tie: FloatArray
    tie_tie: FloatArray


Likelihood = Callable[[FloatArray, float, IntArray], Derivatives]


def davidson(x: FloatArray, tie: float, outcome: IntArray) -> Derivatives:
    """Return the log-likelihood of Davidson's model.

    With strengths π = exp(θ), x = θ_i - θ_j and ν = exp(tie)::

        P(win) = π_i / D,  P(loss) = π_j / D,  P(tie) = ν √(π_i π_j) / D,   D = π_i + π_j + ν √(π_i π_j)

    Source: Davidson (1970), J. American Statistical Association 65:317-328.
    """
    logits = np.stack([-x / 2, np.full_like(x, tie), x / 2])  # in the order LOSS, TIE, WIN
    log_p = special.log_softmax(logits, axis=0)
    loss, equal, win = np.exp(log_p)
    lead = win - loss
    return Derivatives(
        value=np.choose(outcome, log_p),
        x=((outcome == WIN) * 1.0 - (outcome == LOSS) - lead) / 2,
        tie=(outcome == TIE) - equal,
        xx=-(win + loss - lead**2) / 4,
        x_tie=lead * equal / 2,
        tie_tie=-equal * (1 - equal),
    )


def rao_kupper(x: FloatArray, tie: float, outcome: IntArray) -> Derivatives:
    """Return the log-likelihood of the model of Rao and Kupper.

    With θ = exp(tie) above 1::

        P(win) = π_i / (π_i + θ π_j),  P(loss) = π_j / (π_j + θ π_i),
        P(tie) = (θ² - 1) π_i π_j / ((π_i + θ π_j) (π_j + θ π_i))

    Source: Rao and Kupper (1967), J. American Statistical Association 62:194-204.
    """
    if tie <= 0:  # outside of the parameter space: the line search turns back
        bad = np.full_like(x, -np.inf)
        return Derivatives(bad, bad, bad, bad, bad, bad)
    won, lost = outcome != LOSS, outcome != WIN  # a tie is the product of both factors and of θ² - 1
    win, loss = special.expit(x - tie), special.expit(-x - tie)
    tied = outcome == TIE
    decay = np.exp(-2 * tie)
    win_curve, loss_curve = won * win * (1 - win), lost * loss * (1 - loss)
    return Derivatives(
        value=won * special.log_expit(x - tie) + lost * special.log_expit(-x - tie) + tied * np.log(np.expm1(2 * tie)),
        x=won * (1 - win) - lost * (1 - loss),
        tie=-(won * (1 - win)) - lost * (1 - loss) + tied * 2 / (1 - decay),
        xx=-win_curve - loss_curve,
        x_tie=win_curve - loss_curve,
        tie_tie=-win_curve - loss_curve - tied * 4 * decay / (1 - decay) ** 2,
    )


def bradley_terry(x: FloatArray, tie: float, outcome: IntArray) -> Derivatives:
    """Return the log-likelihood of a comparison without ties: P(win) = π_i / (π_i + π_j); `tie` has no effect.

    A tie among the outcomes counts as half a win and half a loss.

    Source: Bradley and Terry (1952), Biometrika 39:324-345.
    """
    score = outcome / WIN  # 0, 1/2, 1
    win = special.expit(x)
    nothing = np.zeros_like(x)
    return Derivatives(
        value=score * special.log_expit(x) + (1 - score) * special.log_expit(-x),
        x=score - win,
        tie=nothing,
        xx=-win * (1 - win),
        x_tie=nothing,
        tie_tie=nothing,
    )

"""One value per sample from the values of several rewards or reward models."""

from __future__ import annotations

from rlalign.types import FloatArray


def combine(values: FloatArray, how: str, coef: float) -> FloatArray:
    """Return one value per sample from the values of all members.

    Source of min and penalised: Coste et al., Reward model ensembles help mitigate overoptimization, arXiv 2310.02743.

    Args:
        values: float [members, B].
        how: "mean", "min", "product", or "penalised": mean - coef · std, with the population standard deviation.
        coef: weight of the members' disagreement.

    Returns:
        float [B].
    """
    if how == "min":
        minimum: FloatArray = values.min(0)
        return minimum
    if how == "product":
        product: FloatArray = values.prod(0)
        return product
    mean: FloatArray = values.mean(0)
    return mean - coef * values.std(0) if how == "penalised" else mean

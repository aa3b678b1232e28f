"""Several rewards as one: their mean, their least, their mean less their disagreement, or their product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.errors import RewardError, UserError, did_you_mean
from rlalign.rewards.columns import items_of
from rlalign.rewards.function import RewardFunction, reward
from rlalign.rewards.specs import Specs
from rlalign.rewards.weighted_sum import RewardSum, compose
from rlalign.types import FloatArray

_HOW = ("mean", "min", "penalised", "product")


def combine(values: FloatArray, how: str, coef: float) -> FloatArray:
    """[members, B] -> [B]: mean; min; mean - coef · std (population), against what members disagree on; product.

    Source of min and penalised: Coste et al., Reward model ensembles help mitigate overoptimization, arXiv 2310.02743.
    """
    if how == "min":
        least: FloatArray = values.min(0)
        return least
    if how == "product":
        product: FloatArray = values.prod(0)
        return product
    mean: FloatArray = values.mean(0)
    return mean - coef * values.std(0) if how == "penalised" else mean


class Ensemble:
    """One value of several rewards: `ensemble?of=vader|tfidf_sentiment&how=min`, or `ensemble(["vader", mine])`.

    `of` names episode rewards, separated by `|`; a weight rescales a member, `of=vader=0.5|tfidf_sentiment`. `how` is
    mean, min, penalised (mean - coef · std of the members) or product. Members run with their own timeouts; one that
    fails makes the call fail, one that does not apply (None) leaves the sample out. Range: that of the members.
    Cost: the sum of theirs. Deterministic where they are.
    Hacked by: what fools every member; members should not share their data.
    Raises UserError without members, for an unknown `how`, and for a member of another scope.
    """

    def __init__(self, members: Specs | None = None, policy: Any = None) -> None:
        self._members, self._policy = members, policy
        self._composed: dict[str, RewardSum] = {}

    def bind(self, policy: Any) -> Ensemble:
        """The same, its members bound to a policy."""
        return type(self)(self._members, policy)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        *,
        of: str = "",
        how: str = "mean",
        coef: float = 1.0,
        **columns: Any,
    ) -> list[float | None]:
        """Opinions on B completions."""
        if how not in _HOW:
            raise UserError(f"an ensemble: unknown how '{how}'.{did_you_mean(how, _HOW)}")
        members = self._sum(of)
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        scores = members.score("episode", prompts, texts, completion_ids, **columns)
        failed = [name for name, kinds in members.pop_failures().items() if "nan" in kinds]
        if failed:
            raise RewardError(f"member '{failed[0]}' returned NaN")
        values = np.stack([members.weights[name] * value for name, value in scores.components.items()])
        return [None if np.isnan(value) else float(value) for value in combine(values, how, coef)]

    def _sum(self, of: str) -> RewardSum:
        if of not in self._composed:
            specs = self._members if self._members is not None else items_of(of)
            made = compose(specs)
            if len(made.weights) < 2:
                raise UserError("an ensemble or product needs two members or more: ensemble?of=vader|tfidf_sentiment")
            if made.scheduled:
                raise UserError(f"an ensemble of '{made.scheduled[0]}': its members have plain weights")
            for name, scope in made.scopes.items():
                if scope != "episode":
                    raise UserError(f"an ensemble of '{name}', which has scope {scope}: its members judge episodes")
            if self._policy is not None:
                made.bind(self._policy)
            self._composed[of] = made
        return self._composed[of]


class Product(Ensemble):
    """Product of several rewards, good only where every one of them is: `product?of=json_valid|json_fields`.

    For members of range [0, 1]; `of` as in `ensemble`. Add the members with weight 0 to see each of them. Range: the
    product of theirs. Cost: the sum of theirs. Deterministic where they are.
    Hacked by: what fools every member. It is sparse: one 0 hides what the others say.
    """


by_name = reward("ensemble", timeout_s=None)(Ensemble())
product = RewardFunction("product", Product(), timeout_s=None, parameters={"how": "product"})


def ensemble(members: Specs, how: str = "mean", coef: float = 1.0, name: str = "ensemble") -> RewardFunction:
    """An ensemble of given rewards (see `Ensemble`): names, functions, pairs with weights."""
    return RewardFunction(name, Ensemble(members), timeout_s=None, parameters={"how": how, "coef": coef})

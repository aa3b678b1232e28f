"""One value of several rewards: their mean, their minimum, their mean minus their disagreement, or their product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.errors import RewardError, UserError, did_you_mean
from rlalign.rewards.columns import items_of
from rlalign.rewards.combine import combine
from rlalign.rewards.function import RewardFunction, reward
from rlalign.rewards.specs import Specs
from rlalign.rewards.text import text_of
from rlalign.rewards.weighted_sum import RewardSum, compose

_HOW = ("mean", "min", "penalised", "product")


class Ensemble:
    """One value of several rewards: `ensemble?of=vader|tfidf_sentiment&how=min`, or `ensemble(["vader", mine])`.

    `of` names episode rewards, separated by `|`. A weight rescales a member, as in `of=vader=0.5|tfidf_sentiment`.
    `how` is mean (the default), min, penalised (mean - coef · std of the members, `coef` 1 by default) or product; the
    source is Coste et al., arXiv 2310.02743. Members run with their own timeouts. If a member fails, the call fails. If
    a member does not apply (None), the sample is left out.

    Range: that of the members.
    Cost: the sum of the members' costs.
    Deterministic if the members are.
    Hacked by: completions that fool every member; members should not share their data.

    Args:
        members: the members as objects or specs; None: those of the parameter `of`.
        policy: passed to the members that bind one.

    Raises:
        UserError: for fewer than two members, an unknown `how`, and a member of another scope.
        RewardError: a member failed or returned NaN.
    """

    def __init__(self, members: Specs | None = None, policy: Any = None) -> None:
        self._members = members
        self._policy = policy
        self._composed: dict[str, RewardSum] = {}  # by the parameter `of`
        self._initial: dict[str, dict[str, Any]] = {}  # states of the members at the composition

    def bind(self, policy: Any) -> Ensemble:
        """Return the same ensemble with its members bound to a policy."""
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
        """Return the combined values of B completions.

        Args:
            prompts: B texts or conversations.
            completions: B texts or conversations.
            completion_ids: B lists of token ids.
            of: specs of the members, separated by `|`; not used if the ensemble was built from `members`.
            how: "mean", "min", "penalised" or "product".
            coef: weight of the members' disagreement, for "penalised".
            columns: columns of the tasks, for the members, and TRL's callbacks `log_metric` and `log_extra`.
        """
        callbacks = {name: columns.pop(name, None) for name in ("log_metric", "log_extra")}
        if how not in _HOW:
            raise UserError(
                f"ensemble: expected how to be one of {', '.join(_HOW)}, got '{how}'.{did_you_mean(how, _HOW)}"
            )
        members = self._sum(of)
        texts = [text_of(completion) for completion in completions]
        scores = members.score("episode", prompts, texts, completion_ids, **columns)
        failed = [name for name, kinds in members.pop_failures().items() if "nan" in kinds]
        if failed:
            raise RewardError(
                f"ensemble: expected numbers, got NaN from member '{failed[0]}'; use None where it does not apply"
            )
        for name, value in members.pop_logged().items():
            if callbacks["log_metric"] is not None:
                callbacks["log_metric"](name, value)
        for column, entries in scores.extra.items():
            if callbacks["log_extra"] is not None:
                callbacks["log_extra"](column, entries)
        values = np.stack([members.weights[name] * value for name, value in scores.components.items()])
        # NaN of one member makes the combination NaN: the member does not apply, so neither does the ensemble.
        return [None if np.isnan(value) else float(value) for value in combine(values, how, coef)]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the members, by the parameter `of`."""
        return {of: members.state_dict() for of, members in self._composed.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the members; compositions that the state lacks get their initial one."""
        for of in {**self._composed, **state}:
            members = self._sum(of)
            members.load_state_dict(state.get(of, self._initial[of]))

    def _sum(self, of: str) -> RewardSum:
        """Return the composition of the members, built at the first call."""
        if of not in self._composed:
            specs = self._members if self._members is not None else items_of(of)
            members = compose(specs)
            if len(members.weights) < 2:
                raise UserError(
                    f"ensemble or product: expected two members or more, got {len(members.weights)}; "
                    "use ensemble?of=vader|tfidf_sentiment"
                )
            if members.scheduled:
                raise UserError(
                    f"ensemble: expected members with constant weights, got a schedule or constraint for "
                    f"'{members.scheduled[0]}'; use a number"
                )
            for name, scope in members.scopes.items():
                if scope != "episode":
                    raise UserError(
                        f"ensemble: expected members of scope episode, got '{name}' of scope {scope}; "
                        "use it outside of the ensemble"
                    )
            if self._policy is not None:
                members.bind(self._policy)
            self._composed[of] = members
            self._initial[of] = members.state_dict()
        return self._composed[of]


class Product(Ensemble):
    """Product of several rewards, high only where all of them are high: `product?of=json_valid|json_fields`.

    For members of range [0, 1]; `of` as in `ensemble`. Add the members with weight 0 to log each of them.

    Range: the product of the members' ranges.
    Cost: the sum of the members' costs.
    Deterministic if the members are.
    Hacked by: completions that fool every member. The product is sparse: one 0 hides the other members' values.
    """


by_name = reward("ensemble", timeout_s=None)(Ensemble())
product = RewardFunction("product", Product(), timeout_s=None, parameters={"how": "product"})


def ensemble(members: Specs, how: str = "mean", coef: float = 1.0, name: str = "ensemble") -> RewardFunction:
    """Return an ensemble of rewards (see `Ensemble`).

    Args:
        members: names, functions, or pairs with weights.
        how: "mean", "min", "penalised" or "product".
        coef: weight of the members' disagreement, for "penalised".
        name: component name in logs.
    """
    return RewardFunction(name, Ensemble(members), timeout_s=None, parameters={"how": how, "coef": coef})

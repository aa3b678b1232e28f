"""Ensembles and products of rewards: combined values, errors, binding."""

import math

import numpy as np
import pytest

from rlalign.errors import RewardError, UserError
from rlalign.rewards import compose
from rlalign.rewards.ensemble import combine, ensemble


def run(spec, completions, ids=None, policy=None, **columns):
    count = len(completions)
    with compose(spec) as total:
        if policy is not None:
            total.bind(policy)
        scores = total.score("episode", ["p"] * count, completions, ids or [[0]] * count, **columns)
    (values,) = scores.components.values()
    return values.tolist()


def constant(value):
    def function(completions):
        return [value] * len(completions)

    function.__name__ = f"always_{value}"
    return function


def test_combine_values():
    values = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert combine(values, "mean", 9).tolist() == [2, 2]
    assert combine(values, "min", 9).tolist() == [1, 2]
    assert combine(values, "penalised", 0.5).tolist() == [1.5, 2]


def test_ensemble_of_rewards():
    one, three = constant(1.0), constant(3.0)
    assert run(ensemble([one, three], how="penalised", coef=2.0), ["a"]) == [0.0]
    assert run(ensemble([(one, 0.5), three], how="min"), ["a"]) == [0.5]
    assert run("ensemble?of=exact_match|token_match", ["ab", "ax"], answer=["ab", "ab"]) == [1.0, 0.25]
    with pytest.raises(RewardError, match="got NaN from member"):
        run(ensemble([one, constant(math.nan)]), ["a"])
    with pytest.raises(UserError, match="expected two members"):
        run("ensemble?of=vader", ["a"])
    with pytest.raises(UserError, match="Did you mean 'mean'"):
        run("ensemble?of=vader|length&how=mena", ["a"])


def test_ensemble_binds_its_members():
    from rlalign.policies.factory import make_policy
    from rlalign.tokenizers import ByteTokenizer

    policy = make_policy("gru", tokenizer=ByteTokenizer())
    values = run("ensemble?of=fluency|too_short&how=min", ["hello"], ids=[[104, 101]], policy=policy)
    assert values[0] <= -1.0


def test_product_of_rewards():
    total = compose("product?of=exact_match|token_match=0.5|json_valid")
    columns = {"answer": ["{}", "{}"]}
    scores = total.score("episode", ["p"] * 2, ["{}", "{"], [[1]] * 2, **columns)
    assert scores.components["product"].tolist() == [0.5, 0.0]

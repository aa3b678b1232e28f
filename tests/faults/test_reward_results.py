"""Return values of reward functions: accepted types, invalid samples, errors. An error never becomes a 0.0."""

import math
import warnings

import numpy as np
import pytest

from rlalign.errors import RewardError
from rlalign.rewards import RewardFunction, compose

TEXTS = ["first", "second " * 50]


def evaluate(returned, timeout_s=None, weight=1.0, **description):
    """Return a weighted sum whose only function returns `returned`, and its scores of TEXTS."""
    item = RewardFunction("judge", lambda completions: returned, timeout_s=timeout_s, **description)
    total = compose((item, weight))
    with total:
        return total, total.score("episode", ["p"] * 2, TEXTS, [[1], [2]])


@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_numeric_types_become_floats(timeout_s):
    torch = pytest.importorskip("torch")
    accepted = [
        [1, True],
        (1.0, np.float32(1)),
        np.array([1, 1]),
        np.array([True, True]),
        [np.array(1.0), np.array([1])],
        torch.tensor([1.0, 1.0]),
        torch.tensor([1, 1], dtype=torch.bfloat16),
        [torch.tensor(1.0), torch.tensor([1])],
        torch.ones(2, requires_grad=True),
    ]
    for returned in accepted[:: 1 if timeout_s is None else 7]:  # a worker pickles them: a subset suffices
        _, scores = evaluate(returned, timeout_s)
        assert scores.total.tolist() == [1.0, 1.0], returned
        assert scores.total.dtype == np.float64


def test_generators_become_lists():
    item = RewardFunction("g", lambda completions: (float(len(c)) for c in completions), timeout_s=None)
    assert compose(item).score("episode", ["p"], ["abc"], [[1]]).total.tolist() == [3.0]


class Raising(str):
    """A value whose methods raise."""

    def tolist(self):
        raise ValueError("unreadable")

    item = __str__ = __float__ = tolist


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "'judge': expected 2 values for the completions of the batch, got 1"),
        ([1.0] * 3, "'judge': expected 2 values for the completions of the batch, got 3"),
        ([], "'judge': expected 2 values for the completions of the batch, got 0"),
        (None, "'judge': expected a list of 2 numbers.*got NoneType .*return statement missing"),
        (1.0, "'judge': expected a list of 2 numbers.*got float"),
        ("ab", "'judge': expected a list .*got str"),
        ({0: 1.0, 1: 2.0}, "'judge': expected a list .*got dict"),
        (["1.0", "2.0"], "'judge': expected a float for sample 0 .*got str '1.0'"),
        ([1.0, b"2"], "'judge': expected a float for sample 1 .*got bytes"),
        ([1.0, [2.0]], "'judge': expected a float for sample 1 .*got list"),
        ([1.0, 2j], "'judge': expected a float for sample 1 .*got complex"),
        (np.ones((2, 1)), "'judge': expected a float for sample 0 .*got list"),
        (np.float64(1.0), "'judge': expected a list .*got float64"),
        ([np.ones(2), 1.0], "'judge': expected a float for sample 0 .*got ndarray"),
        ([1.0, math.inf], "'judge': expected a finite float for sample 1 .*'second second .*…'.*got inf"),
        ([-math.inf, 1.0], "'judge': expected a finite float for sample 0 .*'first'.*got -inf"),
        ([1e39, 1.0], "'judge': expected a finite float for sample 0 .*got 1e[+]39"),
        ([1.0, 10**5000], "'judge': expected a finite float for sample 1 .*got inf"),
        ([-(10**400), 1.0], "'judge': expected a finite float for sample 0 .*got -inf"),
        ("abc", "'judge': expected a list of 2 numbers.*got str of length 3"),
        (Raising(), "'judge': expected numbers, got objects that raise ValueError: unreadable"),
        ([1.0, Raising("x")], "'judge': expected numbers, got objects that raise ValueError: unreadable"),
    ],
)
@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("on_error", ["fail", "drop", 0.0])
def test_invalid_return_value_is_an_error_for_every_on_error(returned, message, weight, on_error):
    with pytest.raises(RewardError, match=message):
        evaluate(returned, weight=weight, on_error=on_error)


def test_none_skips_the_component_and_a_sample_without_components_is_invalid():
    def judge(name, values):
        return RewardFunction(name, lambda completions: values, timeout_s=None)

    total = compose([judge("a", [None, None, 1.0]), (judge("b", [2.0, None, 2.0]), 3.0), (judge("m", [1.0] * 3), 0)])
    scores = total.score("episode", ["p"] * 3, ["c"] * 3, [[1]] * 3)
    np.testing.assert_array_equal(scores.total, [6.0, math.nan, 7.0])
    assert scores.valid.tolist() == [True, False, True]
    assert total.failures == {"a": {"none": 2}, "b": {"none": 1}}


def test_none_for_whole_batch_warns_once():
    item = RewardFunction("judge", lambda completions: [None] * len(completions), timeout_s=None)
    total = compose(item)
    with pytest.warns(RuntimeWarning, match="'judge' returned None for a whole batch"):
        scores = total.score("episode", ["p"], ["c"], [[1]])
    assert not scores.valid.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total.score("episode", ["p"], ["c"], [[1]])
    assert total.pop_failures() == {"judge": {"none": 2}}
    assert total.pop_failures() == {}


def test_nan_makes_sample_invalid_and_is_counted():
    total, scores = evaluate([math.nan, 1.0])
    assert scores.valid.tolist() == [False, True]
    assert math.isnan(scores.total[0])
    assert total.failures == {"judge": {"nan": 1}}


def test_huge_reward_warns_and_is_counted():
    with pytest.warns(RuntimeWarning, match=r"'judge' returned -1e\+30"):
        total, scores = evaluate([-1e30, 1e6])
    assert scores.valid.all()
    assert total.failures == {"judge": {"huge": 1}}


@pytest.mark.parametrize("returned", [[[math.nan, 1.0], [2.0]], [None, [2.0]]])
def test_token_rewards_of_failed_sample_are_zero(returned):
    item = RewardFunction("t", lambda completions: returned, "token", None)
    scores = compose(item).score("turn", ["p"] * 2, TEXTS, [[1, 2], [3]])
    assert scores.valid.tolist() == [False, True]
    assert [x.tolist() for x in scores.token_rewards] == [[0.0, 0.0], [2.0]]
    assert math.isnan(scores.total[0])

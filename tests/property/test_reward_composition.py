"""Invariants of composition: total = Σ weight · applicable component; metrics do not affect total or validity."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlalign.rewards import RewardFunction, compose

NUMBER = st.floats(-1e3, 1e3)
VALUE = st.one_of(NUMBER, st.none(), st.just(math.nan))
WEIGHT = st.one_of(st.just(0.0), st.floats(-10, 10))


def fixed(name, values):
    """Return a reward function that returns these values."""
    return RewardFunction(name, lambda completions: list(values), timeout_s=None)


def evaluate(items):
    """Return the weighted sum of (values, weight) pairs, and its scores."""
    count = len(items[0][0])
    total = compose([(fixed(f"r{i}", values), weight) for i, (values, weight) in enumerate(items)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return total, total.score("episode", ["p"] * count, ["c"] * count, [[1]] * count)


@st.composite
def compositions(draw):
    """Draw up to 4 (values, weight) pairs of up to 5 values."""
    count = draw(st.integers(1, 5))
    rows = st.lists(VALUE, min_size=count, max_size=count)
    return draw(st.lists(st.tuples(rows, WEIGHT), min_size=1, max_size=4))


@given(compositions())
def test_total_is_weighted_sum_and_validity_follows_rules(items):
    _, scores = evaluate(items)
    weighted = [(values, w) for values, w in items if w != 0.0]
    for i in range(len(items[0][0])):
        row = [(values[i], w) for values, w in weighted]
        failed = any(v is not None and math.isnan(v) for v, _ in row)
        absent = bool(row) and all(v is None for v, _ in row)
        assert scores.valid[i] == (not failed and not absent)
        if scores.valid[i]:
            assert scores.total[i] == pytest.approx(sum(w * v for v, w in row if v is not None), abs=1e-9)
        else:
            assert math.isnan(scores.total[i])


@given(compositions(), st.lists(VALUE, min_size=5, max_size=5))
def test_metric_changes_neither_total_nor_validity(items, metric):
    count = len(items[0][0])
    _, without = evaluate(items)
    _, with_metric = evaluate([*items, (metric[:count], 0.0)])
    np.testing.assert_array_equal(without.total, with_metric.total)
    np.testing.assert_array_equal(without.valid, with_metric.valid)
    expected = [math.nan if v is None else v for v in metric[:count]]
    np.testing.assert_array_equal(with_metric.components[f"r{len(items)}"], expected)


@given(compositions())
def test_missing_values_are_counted(items):
    total, _ = evaluate(items)
    for i, (values, _) in enumerate(items):
        counts = total.failures.get(f"r{i}", {})
        assert counts.get("none", 0) == sum(v is None for v in values)
        assert counts.get("nan", 0) == sum(v is not None and math.isnan(v) for v in values)
    assert total.pop_failures().keys() <= {f"r{i}" for i in range(len(items))}
    assert total.failures == {}


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(NUMBER, max_size=4), min_size=n, max_size=n)), WEIGHT)
def test_token_rewards_sum_to_component(rows, weight):
    item = RewardFunction("t", lambda completions: rows, "token", None)
    ids = [[0] * len(row) for row in rows]
    scores = compose((item, weight)).score("turn", ["p"] * len(rows), ["c"] * len(rows), ids)
    np.testing.assert_allclose(scores.components["t"], [sum(r) for r in rows], atol=1e-9)
    if weight == 0.0:
        assert scores.token_rewards is None
    else:
        np.testing.assert_allclose([p.sum() for p in scores.token_rewards], scores.total, atol=1e-6)

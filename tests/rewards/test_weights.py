"""Schedules and constraints: their weights at each step, their state, and their effect on the total."""

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.rewards import Constraint, RewardFunction, Schedule, compose
from rlalign.rewards.specs import split


def fixed(name, values):
    return RewardFunction(name, lambda completions: list(values), timeout_s=None)


def score(total, count=2):
    return total.score("episode", ["p"] * count, ["c"] * count, [[1]] * count)


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.5), (50, 0.75), (100, 1.0), (150, 0.5), (200, 0.0), (999, 0.0), (None, 0.0)]
)
def test_schedule_interpolates_and_keeps_last_weight_outside_training(step, weight):
    total = compose("length=0.5@0:1@100:0@200")
    if step is not None:
        total.begin_step(step)
    assert total.weights == {"length": pytest.approx(weight)}
    assert total.scheduled == ["length"]


def test_total_is_weighted_sum_at_every_step():
    total = compose([(fixed("a", [1.0, 3.0]), Schedule(((0, 0.0), (10, 1.0)))), (fixed("b", [2.0, 2.0]), 0.5)])
    for step, expected in ((0, [1.0, 1.0]), (5, [1.5, 2.5]), (20, [2.0, 4.0])):
        total.begin_step(step)
        scores = score(total)
        np.testing.assert_allclose(scores.total, expected)
        np.testing.assert_allclose(scores.total, sum(total.weights[n] * v for n, v in scores.components.items()))


def test_component_with_scheduled_weight_0_affects_validity():
    total = compose([(fixed("a", [float("nan"), 1.0]), Schedule(((0, 0.0), (10, 1.0)))), (fixed("b", [1.0, 1.0]), 1.0)])
    total.begin_step(0)
    assert score(total).valid.tolist() == [False, True]


def test_function_of_step_is_a_schedule():
    total = compose([("length", lambda step: 1 / (1 + step)), "vader"])
    total.begin_step(3)
    assert total.weights == {"length": 0.25, "vader": 1.0}
    total.end_step()
    assert total.weights["length"] == 1.0
    with pytest.raises(UserError, match="finite weight of step 0"):
        Schedule(function=lambda step: float("nan")).at(0)


def test_multiplier_rises_during_violation_and_falls_to_0():
    total = compose([(fixed("bad", [1.0, 0.0]), Constraint(0.25, rate=0.5)), (fixed("good", [1.0, 1.0]), 1.0)])
    weights = []
    for step, mean in enumerate([0.75, 0.75, 0.25, float("nan"), 0, 0, 0, 0, 0, 0.75, 0.25]):
        total.begin_step(step)
        weights.append(total.weights["bad"])
        np.testing.assert_allclose(score(total).total, [1 + weights[-1], 1.0])
        total.end_step({"bad": mean, "good": 1.0})
    assert weights == pytest.approx([0, -0.25, -0.5, -0.5, -0.5, -0.375, -0.25, -0.125, 0, 0, -0.25])
    assert total.state_dict() == {"bad": 0.25}
    assert total.weights["bad"] == 0.0  # outside of training the multiplier is not applied


def test_lower_bound_gives_positive_weight():
    total = compose("coverage>=0.8@1")
    total.begin_step(0)
    total.end_step({"coverage": 0.5})
    total.begin_step(1)
    assert total.weights == {"coverage": pytest.approx(0.3)}


def test_abandoned_step_leaves_multiplier_unchanged():
    total = compose("length<=-0.5")
    total.begin_step(0)
    total.end_step()
    assert total.state_dict() == {"length": 0.0}


def test_multipliers_are_saved_and_restored():
    total = compose(["length<=-0.5", "vader"])
    total.begin_step(0)
    total.end_step({"length": 0.0, "vader": 9.0})
    assert total.state_dict() == {"length": pytest.approx(0.05)}
    other = compose(["length<=-0.5", "vader"])
    other.load_state_dict({**total.state_dict(), "gone": 3.0})
    assert other.state_dict() == total.state_dict()


@pytest.mark.parametrize(
    ("spec", "weight"),
    [
        ("length<=0.1", Constraint(0.1)),
        ("length>=-1e-1@2", Constraint(-0.1, upper=False, rate=2.0)),
        ("length?target=9<=0.5", Constraint(0.5)),
        ("length=0.5@0:1@9", Schedule(((0, 0.5), (9, 1.0)))),
        ("length?target=9=0.5@0:1@9", Schedule(((0, 0.5), (9, 1.0)))),
    ],
)
def test_specs_of_weights(spec, weight):
    from rlalign.rewards.specs import resolve

    ((item, parsed),) = resolve(spec)
    assert (item.name, parsed) == ("length", weight)
    ((_, from_mapping),) = resolve({spec: 1.0})
    assert from_mapping == weight


def test_split_of_file_with_schedule_and_pattern_with_escaped_bound():
    assert split("my.py:f=0.5@0:1@9") == ("my.py:f", {}, "0.5@0:1@9")
    assert compose("regex?pattern=a%3C=1").weights == {"regex": 1.0}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"length<=0.1": 2.0}, "no weight next to a constraint's multiplier"),
        ("length=1@9:2@3", "steps that increase"),
        ("length<=0.1@0", "a rate above 0, got 0.1 and 0.0"),
        ("length=0.5@x", "finite weight, got '0.5@x'"),
    ],
)
def test_invalid_weights_raise_an_error(spec, message):
    with pytest.raises(UserError, match=message):
        compose(spec)


def test_weight_scales_schedule():
    total = compose({"length=0.5@0:1@10": 2.0})
    total.begin_step(0)
    assert total.weights == {"length": 1.0}

"""Weights that move: schedules, constraints with a multiplier, and what they do to the total."""

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
def test_a_schedule_is_straight_lines_and_its_last_weight_outside_of_training(step, weight):
    total = compose("length=0.5@0:1@100:0@200")
    if step is not None:
        total.begin_step(step)
    assert total.weights == {"length": pytest.approx(weight)}
    assert total.scheduled == ["length"]


def test_the_total_is_the_weighted_sum_at_every_step():
    total = compose([(fixed("a", [1.0, 3.0]), Schedule(((0, 0.0), (10, 1.0)))), (fixed("b", [2.0, 2.0]), 0.5)])
    for step, wanted in ((0, [1.0, 1.0]), (5, [1.5, 2.5]), (20, [2.0, 4.0])):
        total.begin_step(step)
        scores = score(total)
        np.testing.assert_allclose(scores.total, wanted)
        np.testing.assert_allclose(scores.total, sum(total.weights[n] * v for n, v in scores.components.items()))


def test_a_component_that_a_schedule_has_brought_to_0_still_decides_validity():
    total = compose([(fixed("a", [float("nan"), 1.0]), Schedule(((0, 0.0), (10, 1.0)))), (fixed("b", [1.0, 1.0]), 1.0)])
    total.begin_step(0)
    assert score(total).valid.tolist() == [False, True]


def test_any_function_of_the_step_is_a_schedule():
    total = compose([("length", lambda step: 1 / (1 + step)), "vader"])
    total.begin_step(3)
    assert total.weights == {"length": 0.25, "vader": 1.0}
    total.end_step()
    assert total.weights["length"] == 1.0
    with pytest.raises(UserError, match="weight of step"):
        Schedule(function=lambda step: float("nan")).at(0)


def test_a_multiplier_rises_while_the_bound_is_passed_and_falls_to_0_after():
    total = compose([(fixed("bad", [1.0, 0.0]), Constraint(0.25, rate=0.5)), (fixed("good", [1.0, 1.0]), 1.0)])
    seen = []
    for step, mean in enumerate([0.75, 0.75, 0.25, float("nan"), 0, 0, 0, 0, 0, 0.75, 0.25]):
        total.begin_step(step)
        seen.append(total.weights["bad"])
        np.testing.assert_allclose(score(total).total, [1 + seen[-1], 1.0])
        total.end_step({"bad": mean, "good": 1.0})
    assert seen == pytest.approx([0, -0.25, -0.5, -0.5, -0.5, -0.375, -0.25, -0.125, 0, 0, -0.25])
    assert total.state_dict() == {"bad": 0.25}
    assert total.weights["bad"] == 0.0  # outside of training: before and after are measured alike


def test_a_lower_bound_rewards_what_is_missing():
    total = compose("coverage>=0.8@1")
    total.begin_step(0)
    total.end_step({"coverage": 0.5})
    total.begin_step(1)
    assert total.weights == {"coverage": pytest.approx(0.3)}


def test_a_step_that_was_given_up_teaches_nothing():
    total = compose("length<=-0.5")
    total.begin_step(0)
    total.end_step()
    assert total.state_dict() == {"length": 0.0}


def test_multipliers_are_saved_and_taken_up():
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
def test_specs(spec, weight):
    from rlalign.rewards.specs import resolve

    ((item, found),) = resolve(spec)
    assert (item.name, found) == ("length", weight)
    ((_, again),) = resolve({spec: 1.0})
    assert again == weight


def test_a_file_with_a_schedule_and_a_pattern_with_a_bound():
    assert split("my.py:f=0.5@0:1@9") == ("my.py:f", {}, "0.5@0:1@9")
    assert compose("regex?pattern=a%3C=1").weights == {"regex": 1.0}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"length<=0.1": 2.0}, "no weight besides its multiplier"),
        ("length=1@9:2@3", "must increase"),
        ("length<=0.1@0", "a rate above 0"),
        ("length=0.5@x", "no finite number"),
    ],
)
def test_mistakes(spec, says):
    with pytest.raises(UserError, match=says):
        compose(spec)


def test_a_weight_scales_a_schedule():
    total = compose({"length=0.5@0:1@10": 2.0})
    total.begin_step(0)
    assert total.weights == {"length": 1.0}


def test_products():
    total = compose("product?of=exact_match|token_match=0.5|json_valid")
    columns = {"answer": ["{}", "{}"]}
    scores = total.score("episode", ["p"] * 2, ["{}", "{"], [[1]] * 2, **columns)
    assert scores.components["product"].tolist() == [0.5, 0.0]

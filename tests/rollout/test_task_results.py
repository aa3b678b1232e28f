"""From which reward on a completion is a success: the gold score holds for the environment's own rewards alone."""

from __future__ import annotations

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.serialize import update
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.rollout.task_results import check_task_order, gold_of_own_weights


@pytest.mark.parametrize(
    ("rewards", "gold"),
    [
        (None, 2.0),
        ({"token_match": 1.0, "exact_match": 1.0}, 2.0),  # their order does not matter
        ({"exact_match": 1.0, "length": 1.0}, None),  # equal weights of another reward
        ({"exact_match": 1.0, "token_match": 0.5}, None),
        ({"exact_match": 2.0}, None),
    ],
)
def test_the_gold_score_is_that_of_the_own_rewards(rewards: dict[str, float] | None, gold: float | None) -> None:
    assert dict(make_mdp("sort").reward.weights) == {"exact_match": 1.0, "token_match": 1.0}
    assert gold_of_own_weights(make_mdp("sort", rewards=rewards)) == gold


def test_a_reward_with_other_parameters_has_another_scale() -> None:
    own = make_mdp([{"prompt": f"{i}"} for i in range(9)], rewards={"length?target=3": 1.0})
    own.gold_score = 0.0
    own.rewards = {"length?target=3": 1.0}  # type: ignore[misc]  # the defaults of an environment
    assert gold_of_own_weights(own) == 0.0
    own.rewards = {"length?target=4": 1.0}  # type: ignore[misc]
    assert gold_of_own_weights(own) is None


def test_pools_without_a_level_of_success_are_refused() -> None:
    settings = update(default_config("sort,reverse", "gru"), {"tasks.mixing": "difficulty"})
    other = {"token_match": 1.0, "length": 1.0}
    with pytest.raises(UserError, match=r"--tasks\.success REWARD"):
        check_task_order(settings, make_mdp("sort,reverse", rewards=other))
    check_task_order(settings, make_mdp("sort,reverse"))

"""Token rewards, filters and rows outside of the loss, against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import (
    KL,
    Credit,
    Filter,
    Objective,
    Value,
    compute_advantages,
    loss_count,
    policy_loss,
)


def test_kl_in_the_reward_is_on_its_tokens(small_batch) -> None:
    objective = Objective(credit=Credit("reward_to_go"), kl=KL("reward", 0.1))
    advantages = compute_advantages(objective, small_batch()).advantages
    assert advantages is not None
    expected = [[0.85, 0.9, 0.95], [-0.05, 0, 0], [0.4, 0.45, 0], [0.35, 0.4, 0.45]]
    torch.testing.assert_close(advantages, torch.tensor(expected))


def test_overlong_penalty_falls_linearly_to_the_limit(small_batch, first_column) -> None:
    objective = Objective(filter=Filter(overlong=0.5))  # L_max 4, buffer 2: lengths 2, 3, 4 lose 0, 0.5, 1
    assert first_column(objective, small_batch(rewards=torch.zeros(4))) == [-0.5, 0, 0, -0.5]
    with pytest.raises(UserError, match="max_length"):
        compute_advantages(objective, small_batch(max_length=0))


def test_an_episode_that_terminated_at_the_limit_is_not_bootstrapped(small_batch, first_column) -> None:
    b = small_batch(
        truncated=torch.tensor([False, False, True, True]),  # row 3 is terminated too
        old_values=torch.zeros(4, 3),
        final_values=torch.full((4,), 5.0),
    )
    credit = Credit("gae", lambda_actor=1.0, bootstrap=True)
    assert first_column(Objective(baseline="value", value=Value("head"), credit=credit), b) == [1, 0, 5.5, 0.5]


def test_dynamic_sampling_reads_the_rewards_of_the_environment(small_batch) -> None:
    """Penalties of length differ between samples of one reward: those groups have nothing to learn all the same."""
    objective = Objective(baseline="group_mean", filter=Filter(dynamic_sampling=True, overlong=0.5))
    batch = compute_advantages(objective, small_batch(rewards=torch.ones(4)))
    assert batch.advantages is not None
    assert batch.valid is not None
    assert batch.advantages[0, 0] != 0
    assert not batch.valid.any()


def test_dynamic_sampling_takes_groups_of_equal_rewards_out_of_the_count(small_batch) -> None:
    objective = Objective(baseline="group_mean", filter=Filter(dynamic_sampling=True))
    batch = compute_advantages(objective, small_batch())
    assert batch.valid is not None
    assert batch.valid.tolist() == [True, True, False, False]
    assert loss_count(objective, batch) == 2


def test_a_dropped_truncated_row_stays_in_the_baseline(small_batch) -> None:
    objective = Objective(baseline="group_mean", filter=Filter(drop_truncated=True))
    batch = compute_advantages(objective, small_batch(rewards=torch.tensor([1.0, 0.0, 1.0, 0.0])))
    assert batch.valid is not None
    assert batch.advantages is not None
    assert batch.valid.tolist() == [True, True, False, True]
    assert batch.advantages[3, 0] == -0.5
    assert loss_count(objective, batch) == 3
    repeated = compute_advantages(objective, batch)  # the computation is idempotent
    torch.testing.assert_close(repeated.advantages, batch.advantages)


def test_invalid_rows_leave_total_and_count(small_batch) -> None:
    objective = Objective(baseline="leave_one_out")
    b = small_batch(valid=torch.tensor([True, True, False, True]))
    batch = compute_advantages(objective, b)
    assert batch.advantages is not None
    assert (batch.advantages[2:] == 0).all()  # the failed row, and the row that is now single in its group
    loss = policy_loss(objective, batch)
    assert loss.count == 3
    assert b.logprobs is not None
    assert (torch.autograd.grad(loss.total, b.logprobs)[0][2] == 0).all()


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        (Objective(kl=KL("reward")), "ref_logprobs"),
        (Objective(baseline="greedy"), "greedy_rewards"),
        (Objective(baseline="value", value=Value("head"), credit=Credit("gae")), "old_values"),
    ],
)
def test_error_names_the_missing_tensor(small_batch, objective: Objective, missing: str) -> None:
    with pytest.raises(UserError, match=f"needs {missing}"):
        compute_advantages(objective, small_batch(ref_logprobs=None))

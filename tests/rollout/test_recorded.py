"""Rollouts of recorded trajectories: their tensors, their order, and its position."""

from __future__ import annotations

import pytest
import torch

from rlalign.errors import FaultError
from rlalign.rollout.recorded import GroupOrder, RecordedRollouts, Trajectory, mismatched_rows, rollout_of

A = Trajectory([5, 6, 7, 1], [False, True, False, True], reward=2.0, logprobs=[-0.5, -0.25], prompt="x", completion="y")
B = Trajectory([5, 8], [False, True], reward=-1.0, logprobs=[-1.0], truncated=True)


def test_trajectories_are_padded_and_rewards_are_on_the_last_action() -> None:
    rollout = rollout_of([[A], [B, A]])
    assert rollout.tokens.tolist() == [[5, 6, 7, 1], [5, 8, 0, 0], [5, 6, 7, 1]]
    assert rollout.lengths.tolist() == [4, 2, 4]
    assert rollout.action_mask[1].tolist() == [False, True, False, False]
    assert rollout.rewards.tolist() == [[0, 0, 0, 2], [0, -1, 0, 0], [0, 0, 0, 2]]
    assert rollout.group_ids.tolist() == [0, 1, 1]
    assert rollout.terminated.tolist() == [True, False, True]
    assert rollout.sampler_logprobs is not None
    assert rollout.sampler_logprobs.tolist() == [[0, -0.5, 0, -0.25], [0, -1, 0, 0], [0, -0.5, 0, -0.25]]


def test_one_row_without_log_probs_leaves_the_rollout_without() -> None:
    unknown = Trajectory([5, 8], [False, True])
    assert rollout_of([[A, unknown]]).sampler_logprobs is None


def test_each_pass_has_an_order_of_its_own_and_a_position_continues_it() -> None:
    order = GroupOrder(7, seed=3)
    first, second = order.next(7), order.next(7)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert GroupOrder(7, seed=4).next(7) != first
    assert GroupOrder(7, seed=3, position=5).next(4) == [*first[5:], *second[:2]]


def test_a_source_continues_from_its_state_and_refuses_other_data() -> None:
    groups = [[Trajectory([n, 1], [False, True])] for n in range(5)]
    source = RecordedRollouts(groups, per_step=3, seed=0)
    source.draw(0)
    state = source.state_dict()
    expected = source.draw(1).rollout.tokens
    resumed = RecordedRollouts(groups, per_step=3, seed=0)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.draw(1).rollout.tokens, expected)
    assert resumed.passes == pytest.approx(6 / 5)
    with pytest.raises(FaultError, match="its size was 5, now it is 4"):
        RecordedRollouts(groups[:4], per_step=3, seed=0).load_state_dict(state)


def test_mismatched_rows_have_the_completion_of_the_row_before() -> None:
    first = Trajectory([2, 3, 9], [False, False, True])
    second = Trajectory([4, 7, 8], [False, True, True])
    rows = mismatched_rows([first, second])
    assert rows.tokens.tolist() == [[2, 3, 7, 8], [4, 9, 0, 0]]
    assert rows.lengths.tolist() == [4, 2]
    assert rows.action_mask.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_mismatched_rows_that_the_model_cannot_read_are_left_out() -> None:
    long_prompt = Trajectory([5, 5, 5, 2], [False, False, False, True])
    long_completion = Trajectory([6, 3, 3, 3], [False, True, True, True])
    rows = mismatched_rows([long_prompt, long_completion], positions=4)
    assert rows.tokens.tolist() == [[6, 2]]  # the other one would have 6 tokens
    assert len(mismatched_rows([long_prompt, long_completion]).tokens) == 2


def test_compact_trajectories_give_the_same_rollout() -> None:
    plain, compact = rollout_of([[A, B]]), rollout_of([[A.compact(), B.compact()]])
    for name in ("tokens", "lengths", "action_mask", "rewards"):
        assert torch.equal(getattr(plain, name), getattr(compact, name))
    assert (A.compact().prompt_length, A.compact().num_actions) == (A.prompt_length, A.num_actions)

"""Rewards of scope "group": one call for all samples of a rollout, values on the last action of each row."""

import math

import numpy as np
import pytest
import torch

from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.rewards.function import RewardFunction
from rlalign.rollout.collect import collect
from rlalign.types import Sampling


def rollout_with(function, *, env="guessnumber", weight=2.0):
    """Return a rollout of 2 tasks with 3 samples each, scored by a function of scope "group"."""
    mdp = make_mdp(env, rewards=[(RewardFunction("together", function, scope="group", timeout_s=None), weight)])
    policy = make_policy("gru", tokenizer=mdp.tokenizer, seed=0)
    with torch.no_grad():
        return collect(
            TokenVectorEnv(mdp, 6),
            make_sampler("decode", policy),
            [mdp.source.get("train", i) for i in range(2)],
            group_size=3,
            sampling=Sampling(),
            generator=torch.Generator().manual_seed(0),
            seed=0,
        )


def test_a_group_reward_receives_all_samples_and_its_values_are_on_the_last_actions():
    calls = []

    def together(completions, group_ids, **columns):
        calls.append((completions, group_ids))
        return [float(i + 1) for i in range(len(completions))]

    rollout = rollout_with(together)
    assert calls == [(rollout.completions, [0, 0, 0, 1, 1, 1])]
    assert rollout.action_mask.sum(1).max() > rollout.action_mask.sum(1).min() >= 1
    last = [int(np.flatnonzero(row)[-1]) for row in rollout.action_mask.numpy()]
    expected = torch.zeros_like(rollout.rewards)
    expected[range(6), last] = 2 * torch.arange(1.0, 7.0)
    assert torch.equal(rollout.rewards, expected)
    assert rollout.components["together"].tolist() == [1, 2, 3, 4, 5, 6]


def test_nan_and_none_of_a_group_reward_make_samples_invalid():
    rollout = rollout_with(lambda completions, **columns: [1.0, math.nan, None, 1.0, 1.0, 1.0])
    assert rollout.valid.tolist() == [True, False, False, True, True, True]
    assert rollout.returns.isnan().tolist() == [False, True, True, False, False, False]


def test_a_group_reward_with_weight_0_does_not_change_the_total():
    rollout = rollout_with(lambda completions, **columns: [math.nan] * 3 + [5.0] * 3, weight=0.0)
    assert bool(rollout.valid.all())
    assert rollout.rewards.abs().sum() == 0
    assert rollout.components["together"].tolist()[3:] == pytest.approx([5.0] * 3)

"""Trajectories of several turns: validity and components over all turns."""

import math

import numpy as np
import torch

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.weighted_sum import compose
from rlalign.rollout.collect import collect
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling


class TwoTurns(TextMDP):
    max_prompt, max_new, max_turns, max_reply = 4, 2, 2, 2

    def reply(self, task, turn_ids, state, rng):
        return self.tokenizer.encode("b")


def rollout_of(scores_of_turns):
    """Return a rollout of 2 rows and 2 turns, whose turn rewards are given per turn."""
    calls = iter(scores_of_turns)
    function = RewardFunction("step", lambda completions, **_: next(calls), scope="turn", timeout_s=None)
    mdp = TwoTurns(source=[{"prompt": "a"}], tokenizer=CharTokenizer("ab"), reward=compose([function]))
    policy = make_policy("gru", tokenizer=mdp.tokenizer)
    with torch.no_grad():
        return collect(
            TokenVectorEnv(mdp, 2), make_sampler("decode", policy), [mdp.source.get("train", 0)], group_size=2,
            sampling=Sampling(), generator=torch.Generator().manual_seed(0), seed=0,
        )  # fmt: skip


def test_a_reward_that_failed_in_an_earlier_turn_makes_the_sample_invalid():
    rollout = rollout_of([[math.nan, 1.0], [1.0, 1.0]])
    assert rollout.valid.tolist() == [False, True]
    assert rollout.rewards[0].abs().sum() == 0


def test_components_are_summed_over_the_turns():
    rollout = rollout_of([[1.0, 2.0], [10.0, 20.0]])
    assert rollout.components["step"].tolist() == [11, 22]
    assert np.allclose(rollout.returns, [11, 22])

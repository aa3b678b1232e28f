"""Diagnostics of a rollout against values computed by hand."""

import math

import numpy as np
import pytest
import torch

from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.log.diagnostics import (
    common_word_share,
    duplicate_share,
    empty_share,
    gold_of,
    last_turns,
    reference_answers,
    rollout_diagnostics,
    within_group_correlation,
    zero_variance_share,
)
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.rollout.collect import collect
from rlalign.types import Sampling


def test_zero_variance_share_counts_groups_with_two_valid_samples():
    rewards = np.array([1, 1, 1, 2, 3, math.nan, math.nan, math.nan])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert zero_variance_share(rewards, groups) == 0.5  # groups 2 and 3 have fewer than two valid samples
    assert math.isnan(zero_variance_share(np.array([1.0, 2.0]), np.array([0, 1])))


def test_length_correlation_ignores_differences_between_groups():
    # between groups longer texts have higher rewards, within groups lower ones
    x, y, groups = np.array([1.0, 0, 11, 10]), np.array([1.0, 2, 11, 12]), np.array([0, 0, 1, 1])
    assert within_group_correlation(x, y, groups) == pytest.approx(-1.0)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    assert within_group_correlation(a, b, np.zeros(50, int)) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert math.isnan(within_group_correlation(np.ones(4), b[:4], np.zeros(4, int)))
    assert math.isnan(within_group_correlation(np.array([]), np.array([]), np.array([])))


def test_shares_of_completions():
    assert duplicate_share(["p", "p", "q", "r"], ["a", "a", "a", "b"]) == 0.75
    assert duplicate_share(["p", "p"], ["a", "a"]) == 0.0  # the same answer to the same prompt
    assert common_word_share(["A b b", "b", "c", "a c"]) == 0.5
    assert common_word_share(["", "!"]) == 0.0
    assert common_word_share(["1", "1", "1", "0"], ["1", "0"]) == 0.25  # half of the right answers are 1
    assert common_word_share(["the a", "the b"], ["the c", "the d"]) == 0.5
    assert empty_share(["", " \n", "<answer></answer>", "```json\n```", "<b>x</b>", "好"]) == pytest.approx(4 / 6)


def test_last_turns_are_the_final_texts_of_the_episodes():
    mdp = make_mdp("recommend")
    policy = make_policy("gru", tokenizer=mdp.tokenizer, seed=0)
    env, tasks = TokenVectorEnv(mdp, 12), [mdp.source.get("train", i) for i in range(6)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rollout = collect(
            env, make_sampler("decode", policy), tasks, group_size=2, sampling=Sampling(), generator=generator, seed=0
        )
    assert {len(e.texts) for e in env.episodes} == {3}
    assert last_turns(rollout, mdp) == [e.texts[-1] for e in env.episodes]
    assert reference_answers(rollout, mdp) == [task.columns["answer"] for task in tasks]
    assert rollout_diagnostics(rollout, mdp)["rollout/common_word"] < 1


def test_gold_is_a_component_of_weight_zero():
    class Mdp:
        gold = "wanted"

    assert gold_of(object(), {"gold": 0.0, "proxy": 1.0}) == "gold"
    assert gold_of(object(), {"gold": 1.0}) is None
    assert gold_of(Mdp(), {"wanted": 0.0, "gold": 0.0}) == "wanted"
    assert gold_of(Mdp(), {"gold": 0.0}) is None

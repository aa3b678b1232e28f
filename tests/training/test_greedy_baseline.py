"""Greedy baselines: each sample gets the greedy reward of its own prompt."""

import torch

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.training.trainer import Trainer


def test_each_row_gets_the_greedy_reward_of_its_own_prompt(tmp_path):
    """The reward depends on the prompt alone, so the baseline of each sample equals its reward."""
    changes = {
        "steps": 1, "rollout.prompts": 3, "rollout.group_size": 2, "output": str(tmp_path), "evaluation.prompts": 2,
    }  # fmt: skip
    config = update(default_config("reverse", "gru", "remax"), changes)
    rewards = [lambda prompts, **columns: [float(sum(i * ord(c) for i, c in enumerate(p, 1))) for p in prompts]]
    trainer = Trainer(config, tmp_path, *build_policy(config, build_mdp(config, rewards=rewards)), quiet=True)
    batch = trainer.state.collector.collect(0).buffer.batch
    trainer.close()
    assert batch.greedy_rewards is not None
    returns = batch.rewards.sum(1)
    assert len(set(returns.tolist())) > 1
    torch.testing.assert_close(batch.greedy_rewards.to(returns.dtype), returns)

"""The greedy reward of a prompt is the baseline of that prompt's samples, not of another's."""

import torch

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.training.trainer import Trainer


def test_each_row_gets_the_greedy_reward_of_its_own_prompt(tmp_path):
    """A reward that is a function of the prompt alone: every sample's baseline is its own reward."""
    changes = {
        "steps": 1, "rollout.prompts": 3, "rollout.group_size": 2, "output": str(tmp_path), "evaluation.prompts": 2,
    }  # fmt: skip
    config = update(default_config("reverse", "gru", "remax"), changes)
    worth = [lambda prompts, **columns: [float(sum(i * ord(c) for i, c in enumerate(p, 1))) for p in prompts]]
    trainer = Trainer(config, tmp_path, *build_policy(config, build_mdp(config, rewards=worth)), quiet=True)
    batch = trainer.state.collector.collect(0).buffer.batch
    trainer.close()
    assert batch.greedy_rewards is not None
    returns = batch.rewards.sum(1)
    assert len(set(returns.tolist())) > 1
    torch.testing.assert_close(batch.greedy_rewards.to(returns.dtype), returns)

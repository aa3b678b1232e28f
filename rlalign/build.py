"""From names to objects: the policy at its start, the environment that speaks its tokens, the device."""

from __future__ import annotations

from typing import Any

import torch

from rlalign.config import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.make import make_mdp
from rlalign.policies import make_policy
from rlalign.policies.base import Policy
from rlalign.run import Run


def build(config: TrainConfig, *, env: str | TextMDP | None = None, rewards: Any = None) -> tuple[Policy, TextMDP]:
    """The policy at its start and the environment, speaking the policy's tokens.

    A pretrained policy brings its tokenizer; a policy from scratch takes the environment's.
    """
    chosen = env if env is not None else config.env
    mdp = make_mdp(chosen, rewards=rewards if rewards is not None else list(config.reward) or None)
    mdp = mdp.with_limits(max_new=config.rollout.max_new)
    policy = make_policy(
        config.policy,
        tokenizer=mdp.tokenizer,
        options=config.model,
        seed=config.seed,
        device=device_of(config.device),
        keep_reference=True,
    )
    mdp = mdp.with_tokenizer(policy.tokenizer)
    if mdp.reward is not None and hasattr(mdp.reward, "bind"):
        mdp.reward.bind(policy)
    return policy, mdp


def device_of(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used here ({str(error).splitlines()[0]}): try --device auto") from error
    return device


def build_trained(run: Run) -> tuple[Policy, TextMDP]:
    """A run's trained policy, from its `policy/` folder, and its environment."""
    config, policy = run.config, run.policy
    mdp = make_mdp(config.env, rewards=list(config.reward) or None, tokenizer=policy.tokenizer)
    mdp = mdp.with_limits(max_new=config.rollout.max_new)
    if mdp.reward is not None and hasattr(mdp.reward, "bind"):
        mdp.reward.bind(policy)
    return policy, mdp

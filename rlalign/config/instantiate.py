"""From names to objects: the environment, the policy at its start, the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.config.defaults import from_scratch
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import make_policy, policy_kind
from rlalign.run import Run


def build_mdp(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> TextMDP:
    """The environment with its rewards, speaking its own tokens. Raises UserError for unknown names.

    Args:
        config: names the environment, its rewards and the limit of a turn.
        env, rewards: objects instead of the configuration's names.
    """
    if env is None and config.env.startswith(OBJECT):
        raise UserError(f"the environment '{config.env}' was a Python object, which no name brings back: give env=...")
    if rewards is None and (lost := [spec for spec in config.rewards if spec.removeprefix("+").startswith(OBJECT)]):
        raise UserError(f"the reward '{lost[0]}' was a Python object, which no name brings back: give rewards=...")
    mdp = make_mdp(config.env if env is None else env)
    chosen = config.rewards if rewards is None else rewards
    if chosen:
        mdp = make_mdp(mdp, rewards=_with_own(mdp, chosen))
    if mdp.reward is None and not config.supervised.align_interval:
        raise UserError(
            f"{mdp.id} has no reward, so there is nothing to learn: add --reward SPEC (rlalign list rewards)"
        )
    return mdp.with_limits(max_new=config.rollout.max_new)


def _with_own(mdp: TextMDP, chosen: Any) -> Any:
    """Specs that all begin with + are added to the environment's own; others replace them."""
    if isinstance(chosen, Mapping) or not isinstance(chosen, Sequence) or isinstance(chosen, str):
        return chosen
    if not all(isinstance(spec, str) and spec.startswith("+") for spec in chosen):
        return [spec.removeprefix("+") if isinstance(spec, str) else spec for spec in chosen]
    return [*mdp.rewards.items(), *(spec.removeprefix("+") for spec in chosen)]


def build_policy(config: TrainConfig, mdp: TextMDP) -> tuple[Policy, TextMDP]:
    """The policy at its start, and the environment speaking its tokens, its rewards knowing it.

    A pretrained policy brings its tokenizer; a policy from scratch takes the environment's.
    """
    policy = make_policy(
        config.policy,
        tokenizer=mdp.tokenizer,
        options=config.model,
        seed=config.seed,
        device=resolve_device(config.device),
        keep_reference=True,
    )
    return policy, _bound(mdp, policy)


def check_policy(config: TrainConfig, mdp: TextMDP) -> None:
    """Refuse a policy that cannot be made. Raises UserError.

    One from scratch is made and dropped again; a pretrained one is looked up, and its weights stay where they are.
    """
    if from_scratch(config.policy):
        _, mdp = build_policy(replace(config, device="cpu"), mdp)
        if mdp.reward is not None:
            mdp.reward.close()
    elif policy_kind(config.policy) == "pretrained":
        from rlalign.policies.pretrained import check_pretrained

        check_pretrained(str(Path(config.policy).expanduser()), config.model)


def build_trained(run: Run) -> tuple[Policy, TextMDP]:
    """A run's trained policy, from its `policy/` folder, and its environment."""
    return run.policy, _bound(build_mdp(run.config), run.policy)


def _bound(mdp: TextMDP, policy: Policy) -> TextMDP:
    mdp = mdp.with_tokenizer(policy.tokenizer)
    if mdp.reward is not None:
        mdp.reward.bind(policy)
    return mdp

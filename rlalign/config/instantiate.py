"""From a configuration to its objects: the environment with its rewards, and the initial policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlalign.algorithms import algorithm as find_algorithm
from rlalign.config.defaults import from_scratch
from rlalign.config.schema import OBJECT, TrainConfig
from rlalign.envs.chat_prompts import Mode, with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import for_each
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.device import resolve_device
from rlalign.policies.factory import make_policy, policy_kind
from rlalign.policies.options import check_no_adapter
from rlalign.rewards import compose


def build_mdp(config: TrainConfig, *, env: TextMDP | None = None, rewards: Any = None) -> TextMDP:
    """Return the environment of a configuration, with its rewards, under the environment's own tokenizer.

    The rewards and the limits of the configuration are those of each environment of a mixture.

    Args:
        config: names the environment, its rewards and the limits of prompts and turns.
        env, rewards: objects in place of the configuration's names.

    Raises:
        UserError: for unknown names, for objects that a name cannot rebuild, or without any reward to learn from.
    """
    if env is None and config.env.startswith(OBJECT):
        raise UserError(f"'{config.env}' was passed as a Python object and cannot be rebuilt by name; pass env=...")
    by_name = [spec.removeprefix("+") for spec in config.rewards]
    objects = [spec for spec in by_name if spec.startswith(OBJECT)]
    if rewards is None and objects:
        raise UserError(f"'{objects[0]}' was passed as a Python object and cannot be rebuilt by name; pass rewards=...")
    chosen = config.rewards if rewards is None else rewards
    other_signal = config.supervised.align_interval or config.data or find_algorithm(config.algorithm).teacher

    def with_settings(mdp: TextMDP) -> TextMDP:
        if chosen:
            mdp = mdp.with_reward(compose(with_own(mdp, chosen)))
        if not mdp.has_reward and not other_signal:
            raise UserError(
                f"{mdp.id} has no reward, so there is nothing to learn; use --reward SPEC (rlalign list rewards)"
            )
        return mdp.with_limits(max_prompt=config.rollout.max_prompt, max_new=config.rollout.max_new)

    return for_each(make_mdp(config.env if env is None else env), with_settings)


def with_own(mdp: TextMDP, chosen: Any) -> Any:
    """Return the environment's own rewards and the chosen ones if all of these begin with +, else the chosen ones."""
    if isinstance(chosen, Mapping) or not isinstance(chosen, Sequence) or isinstance(chosen, str):
        return chosen
    if not all(isinstance(spec, str) and spec.startswith("+") for spec in chosen):
        return [spec.removeprefix("+") if isinstance(spec, str) else spec for spec in chosen]
    return [*mdp.rewards.items(), *(spec.removeprefix("+") for spec in chosen)]


def build_policy(config: TrainConfig, mdp: TextMDP) -> tuple[Policy, TextMDP]:
    """Return the initial policy, and the environment bound to it.

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
    return policy, bind(mdp, policy, config.rollout.chat_template)


def bind(mdp: TextMDP, policy: Policy, chat_template: Mode = "auto") -> TextMDP:
    """Return the environment under the policy's tokenizer, with the policy given to the rewards that ask for it.

    Args:
        mdp: under any tokenizer.
        policy: of the run.
        chat_template: of prompts that are plain texts; see `with_chat_template`.
    """
    mdp = with_chat_template(mdp.with_tokenizer(policy.tokenizer), chat_template)
    mdp.reward.bind(policy)
    return mdp


def check_policy(config: TrainConfig, mdp: TextMDP) -> None:
    """Raise UserError for a policy that cannot be built.

    A policy from scratch is built and dropped; for a pretrained one the files are checked, and no weight is loaded.
    """
    if from_scratch(config.policy):
        _, mdp = build_policy(replace(config, device="cpu"), mdp)
        mdp.reward.close()
        return
    kind = policy_kind(config.policy)
    if kind in ("gru", "tabular"):
        check_no_adapter(config.policy, config.model, kind=kind)
    elif kind == "pretrained":
        from rlalign.policies.pretrained import check_pretrained

        check_pretrained(str(Path(config.policy).expanduser()), config.model, mdp.tokenizer)

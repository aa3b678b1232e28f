"""Generation with a trained policy until the reward reaches a level (rejection sampling)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import collect
from rlalign.typecheck import check_range
from rlalign.types import Prompt, Sampling, Task

_BATCH = 8  # tries that are sampled together


@dataclass(frozen=True)
class Generation:
    """A completion, its reward and its number of tries.

    Attributes:
        text: the completion.
        reward: its total reward; NaN if a reward failed.
        components: reward component -> its value, unweighted; NaN where it failed or did not apply.
        tries: completions that were read: up to this one if it reached the level, else all.
        reached: whether the reward reached the level; true if there was no level.
        messages: the whole trajectory, as messages with roles (see `rlalign.envs.episode.Episode.messages`).
    """

    text: str
    reward: float
    components: dict[str, float]
    tries: int
    reached: bool
    messages: Sequence[Mapping[str, str]] = ()


def generate(
    policy: Policy,
    mdp: TextMDP,
    text: Prompt,
    columns: Mapping[str, Any] | None = None,
    *,
    sampling: Sampling,
    seed: int,
    until: float | None = None,
    max_tries: int = 16,
) -> Generation:
    """Sample completions of `text` one after another until the reward of one is at least `until`.

    Tries are sampled several at a time for speed, and read in order.

    Args:
        policy: a trained policy.
        mdp: its environment, bound to the policy's tokenizer.
        text: the prompt; `rlalign.envs.chat_prompts.prompt_like` gives a text the form of the tasks' prompts.
        columns: what the rewards read besides the text, such as an answer.
        sampling: the distribution to sample from.
        seed: of the sampling, at least 0.
        until: reward at which to stop; None: one try.
        max_tries: largest number of tries, at least 1.

    Returns:
        The first completion that reaches the level, otherwise the best one.

    Raises:
        UserError: for a number out of range.
    """
    check_range("seed", seed, least=0)
    check_range("max_tries", max_tries, least=1)
    if until is not None and not math.isfinite(until):
        raise UserError(f"until: expected a finite reward, got {until}")
    generator = torch.Generator(policy.device).manual_seed(seed)
    sampler = make_sampler("decode", policy)
    policy.begin_rollout()
    limit = 1 if until is None else max_tries
    best: Generation | None = None
    tries = 0
    while tries < limit:
        count = min(_BATCH, limit - tries)
        with torch.no_grad():
            env = TokenVectorEnv(mdp, count)
            rollout = collect(
                env,
                sampler,
                [Task(text, columns or {})],
                group_size=count,
                sampling=sampling,
                generator=generator,
                seed=seed + tries,
            )
        for i in range(count):
            tries += 1
            reward = float(rollout.returns[i])
            parts = {k: float(v[i]) for k, v in rollout.components.items()}
            reached = until is None or reward >= until
            if best is None or reached or reward > best.reward or math.isnan(best.reward):
                best = Generation(rollout.completions[i], reward, parts, tries, reached, rollout.messages[i])
            if reached:
                return best
    assert best is not None
    return replace(best, tries=tries, reached=False)

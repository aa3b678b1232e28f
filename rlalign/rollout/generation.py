"""Generate again until the alignment reaches a level: what a trained policy is for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import collect
from rlalign.types import Sampling, Task

_AT_ONCE = 8


@dataclass(frozen=True)
class Generation:
    """A completion, its reward, and how many tries it took; `reached` is false when no try met the level."""

    text: str
    reward: float
    components: dict[str, float]
    tries: int
    reached: bool


def generate(
    policy: Policy,
    mdp: TextMDP,
    text: str,
    columns: Mapping[str, Any] | None = None,
    *,
    sampling: Sampling,
    seed: int,
    until: float | None = None,
    max_tries: int = 16,
) -> Generation:
    """Sample completions of `text` one after the other until one's reward is at least `until`.

    `columns` are what the rewards need besides the text, such as an answer. Tries are drawn a few at a time for speed
    and looked at in order. Returns the first that reaches the level, otherwise the best of all. Without a level there
    is one try.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}: it must be at least 0")
    if max_tries < 1:
        raise UserError(f"max_tries is {max_tries}: it must be at least 1")
    if until is not None and not math.isfinite(until):
        raise UserError(f"until is {until}: it must be a finite reward")
    generator = torch.Generator(policy.device).manual_seed(seed)
    sampler = make_sampler("decode", policy)
    policy.begin_rollout()
    limit = 1 if until is None else max_tries
    best: Generation | None = None
    tries = 0
    while tries < limit:
        count = min(_AT_ONCE, limit - tries)
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
                best = Generation(rollout.completions[i], reward, parts, tries, reached)
            if reached:
                return best
    assert best is not None
    return Generation(best.text, best.reward, best.components, tries, False)

"""Scores of episodes: the rewards of turns, whole episodes and groups, with the texts and columns that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rlalign.envs.episode import Episode
from rlalign.types import Scores


def score_episodes(mdp: Any, episodes: Sequence[Episode], over: Sequence[bool]) -> Scores:
    """Score n episodes of one environment whose turn has just ended (see `TextMDP.score`)."""
    n = len(episodes)
    # Group-scope rewards need several finished episodes of one task, so rollout code scores them.
    scopes = {name: scope for name, scope in mdp.reward.scopes.items() if scope != "group"}
    total = np.zeros(n)
    valid = np.ones(n, np.bool_)
    components = {name: np.full(n, np.nan) for name in scopes}
    token_rewards = None
    events: tuple[tuple[Literal["turn", "episode"], list[int], set[str]], ...] = (
        ("turn", list(range(n)), {k for k, s in scopes.items() if s in ("turn", "token")}),
        ("episode", [i for i in range(n) if over[i]], {k for k, s in scopes.items() if s == "episode"}),
    )
    for event, rows, names in events:
        if not rows or not names:
            continue
        scored = [episodes[i] for i in rows]
        scores = mdp.reward.score(event, *mdp.texts(scored, last_turn=event == "turn"), **mdp.columns(scored))
        total[rows] += scores.total
        valid[rows] &= scores.valid
        for name in names.intersection(scores.components):
            components[name][rows] = scores.components[name]
        if event == "turn":
            token_rewards = scores.token_rewards
        _log_extra(scored, scores)
    return Scores(total, valid, components, token_rewards)


def score_groups(mdp: Any, episodes: Sequence[Episode], group_ids: Sequence[int]) -> Scores:
    """Score n finished episodes of one environment with its rewards of group scope (see `TextMDP.score_groups`)."""
    columns = {**mdp.columns(episodes), "group_ids": list(group_ids)}
    scores: Scores = mdp.reward.score("group", *mdp.texts(episodes), **columns)
    _log_extra(episodes, scores)
    return scores


def _log_extra(episodes: Sequence[Episode], scores: Scores) -> None:
    """Store the values that rewards logged (TRL's `log_extra`) in their episodes."""
    for name, values in getattr(scores, "extra", {}).items():
        for episode, value in zip(episodes, values, strict=True):
            episode.extra[name] = value

"""Task sources as `datasets.Dataset`s and rewards as TRL reward functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlalign.envs.episode import Episode
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.parts import single
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.rewards.specs import Specs, resolve
from rlalign.rewards.text import text_of
from rlalign.rewards.weighted_sum import RewardSum
from rlalign.types import FloatArray, Scores, Split, Task

RewardFunc = Callable[..., list[float | None]]

# Keyword arguments of a TRL reward function that are not columns of the data set.
_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments", "completions")


def dataset(env: Any, *, split: Split = "train", count: int | None = None) -> Any:
    """Return the tasks of an environment as a `datasets.Dataset` with `prompt` and the columns that rewards read.

    A prompt is a text, or a list of messages in TRL's format. A column that a task lacks is None.

    Args:
        env: any argument of `rlalign.make_mdp`; single-turn.
        split: train, validation or test.
        count: number of tasks, from the first on; None: all. Required for an unbounded split.

    Raises:
        UserError: for an environment of several turns, or an unbounded split without `count`.
    """
    import datasets

    mdp = require_single_turn(make_mdp(env))
    size = mdp.source.size(split)
    if size is None and count is None:
        raise UserError(f"{mdp.id}: expected count=... for the unbounded split {split}, got None")
    number = min(n for n in (size, count) if n is not None)
    tasks = [mdp.source.get(split, i) for i in range(number)]
    names: dict[str, None] = {}  # an ordered set: a column may be missing from the first task
    for task in tasks:
        names |= dict.fromkeys(task.columns)
    rows = [
        {"prompt": trl_prompt(mdp.policy_prompt(task)), **{n: task.columns.get(n) for n in names}} for task in tasks
    ]
    return datasets.Dataset.from_list(rows)


def reward_func(env: Any, *, rewards: Any = None, tokenizer: Any = None, group_size: int | None = None) -> RewardFunc:
    """Return the whole reward of an environment as one TRL reward function.

    The function returns the weighted sum of the components, and None for a failed reward; TRL leaves None out of the
    group. TRL logs the mean of each component as `reward/NAME`. The function reads the completion from its ids, because
    the decoded text does not show if the completion ended or was truncated.

    Args:
        env: any argument of `rlalign.make_mdp`; single-turn.
        rewards: reward specs in place of the environment's own; None: the environment's.
        tokenizer: the tokenizer of TRL's trainer, which defines the ids; None: the environment's.
        group_size: TRL's `num_generations`; required only for rewards of scope "group".

    Returns:
        An item of TRL's `reward_funcs`. Its data set is that of `dataset`.

    Raises:
        UserError: for an environment of several turns or without a reward, or a missing `group_size`.
    """
    mdp = require_single_turn(make_mdp(env, rewards=rewards, tokenizer=tokenizer))
    if not mdp.has_reward:
        raise UserError(f"{mdp.id} has no reward: pass rewards=...")
    if group_size is None and "group" in mdp.reward.scopes.values():
        raise UserError(f"{mdp.id} has a reward of scope 'group': pass group_size=num_generations")

    def reward(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **keywords: Any) -> list[float | None]:
        columns = _columns(keywords)
        tasks = [Task(p, {k: v[i] for k, v in columns.items()}) for i, p in enumerate(prompts)]
        scores, episodes = score(mdp, tasks, completion_ids, group_size=group_size)
        for name, values in scores.components.items():
            if "log_metric" in keywords and not np.isnan(values).all():
                keywords["log_metric"](f"reward/{name}", float(np.nanmean(values)))
        names = dict.fromkeys(name for episode in episodes for name in episode.extra)
        extra = {name: [episode.extra.get(name) for episode in episodes] for name in names}
        _log(mdp.reward, extra, keywords)
        return _nullable(scores.total)

    return reward


def reward_funcs(specs: Specs) -> tuple[list[RewardFunc], list[float]]:
    """Return rewards as TRL reward functions, one per reward, and TRL's `reward_weights`.

    The rewards keep their time limits, retries and failure policies. A dropped sample is None.

    Args:
        specs: reward names, specs or functions, as in `rlalign.make_mdp(env, rewards=specs)`.

    Returns:
        TRL's `reward_funcs`, and `reward_weights` of its configuration.

    Raises:
        UserError: for a reward whose scope TRL does not support, or a weight that is not a constant.

    Example:
        >>> functions, weights = reward_funcs(["exact_match", "length?target=20=0.5"])
        >>> [function.__name__ for function in functions], weights
        (['exact_match', 'length'], [1.0, 0.5])
    """
    items = resolve(specs)
    for reward, _ in items:
        if reward.scope in ("turn", "token", "group"):
            raise UserError(
                f"reward '{reward.name}': expected scope 'episode' for TRL, got '{reward.scope}'; "
                "use reward_func(env, rewards=...)"
            )
    weights = [weight for _, weight in items if isinstance(weight, int | float)]
    if len(weights) < len(items):
        raise UserError("expected constant weights for TRL, got a schedule or a constraint; use numbers")
    return [_function(RewardSum([(reward, 1.0)]), reward.name) for reward, _ in items], weights


def _function(reward: RewardSum, name: str) -> RewardFunc:
    def function(
        prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **keywords: Any
    ) -> list[float | None]:
        texts = [text_of(completion) for completion in completions]
        scores = reward.score("episode", prompts, texts, completion_ids, **_columns(keywords))
        _log(reward, scores.extra, keywords)
        return _nullable(scores.total)

    function.__name__ = name  # TRL names its metrics after the function
    return function


def score(
    mdp: TextMDP, tasks: Sequence[Task], completion_ids: Sequence[Sequence[int]], *, group_size: int | None = None
) -> tuple[Scores, list[Episode]]:
    """Score completions that are given as ids in a single-turn environment, and return their episodes too.

    Args:
        mdp: the environment, bound to the tokenizer of the ids.
        tasks: one per completion.
        completion_ids: with the stop id if the policy sampled it.
        group_size: number of consecutive rows per prompt, for rewards of scope "group".
    """
    episodes = []
    for task, ids in zip(tasks, completion_ids, strict=True):
        episode = mdp.begin(task, 0, 0)
        stopped = bool(len(ids)) and int(ids[-1]) in mdp.stop_ids
        mdp.end_turn(episode, [int(i) for i in ids], stopped)
        episodes.append(episode)
    scores = mdp.score(episodes, [True] * len(episodes))
    if group_size is not None:
        scores = _with_groups(mdp, episodes, scores, group_size)
    return scores, episodes


def _with_groups(mdp: TextMDP, episodes: list[Episode], scores: Scores, group_size: int) -> Scores:
    """Return scores plus those of the rewards of scope "group"."""
    if not mdp.has_reward or "group" not in mdp.reward.scopes.values():
        return scores
    ids = (np.arange(len(episodes)) // group_size).tolist()
    group_scores = mdp.reward.score("group", *mdp.texts(episodes), **mdp.columns(episodes), group_ids=ids)
    total: FloatArray = scores.total + group_scores.total
    valid = scores.valid & group_scores.valid
    return Scores(total, valid, {**scores.components, **group_scores.components}, scores.token_rewards)


def require_single_turn(mdp: TextMDP) -> TextMDP:
    """Return the environment. Raises UserError for several turns or environments, which TRL's loop does not support."""
    single(mdp, "TRL")
    if mdp.max_turns > 1:
        raise UserError(
            f"{mdp.id}: expected a single turn for TRL, got up to {mdp.max_turns} turns; use rlalign's own trainer, "
            "such as --algorithm grpo"
        )
    return mdp


def trl_prompt(prompt: Any) -> Any:
    """Return a prompt in TRL's format: a text, or a list of message dicts."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


def _log(reward: Any, extra: Mapping[str, Sequence[Any]], keywords: Mapping[str, Any]) -> None:
    """Pass on to TRL's callbacks what the functions logged."""
    for name, value in getattr(reward, "pop_logged", dict)().items():
        if "log_metric" in keywords:
            keywords["log_metric"](f"reward/{name}", value)
    for column, values in extra.items():
        if "log_extra" in keywords:
            keywords["log_extra"](column, list(values))


def _columns(keywords: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in keywords.items() if name not in _NOT_COLUMNS}


def _nullable(values: FloatArray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]

"""Our task sources as `datasets.Dataset`s, our rewards as TRL reward functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlalign.envs.episode import Episode
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.rewards.specs import Specs, resolve
from rlalign.rewards.weighted_sum import RewardSum
from rlalign.types import FloatArray, Scores, Split, Task

RewardFunc = Callable[..., list[float | None]]

_OF_TRL = ("trainer_state", "log_extra", "log_metric", "environments")  # what TRL passes besides the columns


def dataset(env: Any, *, split: Split = "train", count: int | None = None) -> Any:
    """The tasks of an environment as a `datasets.Dataset`: `prompt`, and a column for each that rewards may need.

    Args:
        env: whatever `rlalign.make_mdp` takes.
        split: train, validation or test.
        count: the first so many tasks; needed where the split is unbounded.
    """
    import datasets

    mdp = _single_turn(make_mdp(env))
    size = mdp.source.size(split)
    if size is None and count is None:
        raise UserError(f"{mdp.id} makes {split} tasks without end: say count=...")
    number = min(n for n in (size, count) if n is not None)
    tasks = [mdp.source.get(split, i) for i in range(number)]
    names = dict.fromkeys(name for task in tasks for name in task.columns)
    rows = [{"prompt": _plain(task.prompt), **{n: task.columns.get(n) for n in names}} for task in tasks]
    return datasets.Dataset.from_list(rows)


def reward_func(env: Any, *, rewards: Any = None, tokenizer: Any = None, group_size: int | None = None) -> RewardFunc:
    """The whole reward of an environment as one TRL reward function; its components are logged by TRL one by one.

    A failure is None, which TRL leaves out of the group. The completion is read from its ids, so that one cut off at
    the limit is known from one that ended.

    Args:
        env: whatever `rlalign.make_mdp` takes; single-turn.
        rewards: specs in place of the environment's own.
        tokenizer: what the ids mean: the one that TRL's trainer has.
        group_size: TRL's `num_generations`; only rewards that see a whole group need it.
    """
    mdp = _single_turn(make_mdp(env, rewards=rewards, tokenizer=tokenizer))
    if not mdp.has_reward:
        raise UserError(f"{mdp.id} has no reward: say rewards=...")
    if group_size is None and "group" in mdp.reward.scopes.values():
        raise UserError("a reward of scope 'group' must know its group: say group_size=num_generations")

    def reward(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **given: Any) -> list[float | None]:
        columns = _columns(given)
        tasks = [Task(p, {k: v[i] for k, v in columns.items()}) for i, p in enumerate(prompts)]
        scores, _ = score(mdp, tasks, completion_ids, group_size=group_size)
        for name, values in scores.components.items():
            if "log_metric" in given and not np.isnan(values).all():
                given["log_metric"](f"reward/{name}", float(np.nanmean(values)))
        return _nullable(scores.total)

    return reward


def reward_funcs(specs: Specs) -> tuple[list[RewardFunc], list[float]]:
    """Rewards by name, spec or function as TRL reward functions, and TRL's `reward_weights` for them.

    They keep their time limits, retries and failure policies: what is dropped here is None there.
    """
    items = resolve(specs)
    if odd := [r.name for r, _ in items if r.scope in ("turn", "token", "group")]:
        raise UserError(f"reward '{odd[0]}' is of a scope that TRL has not: use reward_func(env, rewards=...)")
    weights = [weight for _, weight in items if isinstance(weight, int | float)]
    if len(weights) < len(items):
        raise UserError("a weight that moves (a schedule, a constraint) is one that TRL has not: give numbers")
    return [_function(RewardSum([(item, 1.0)]), item.name) for item, _ in items], weights


def _function(one: RewardSum, name: str) -> RewardFunc:
    def function(
        prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **given: Any
    ) -> list[float | None]:
        texts = [c if isinstance(c, str) else "".join(m["content"] for m in c) for c in completions]
        return _nullable(one.score("episode", prompts, texts, completion_ids, **_columns(given)).total)

    function.__name__ = name
    return function


def score(
    mdp: TextMDP, tasks: Sequence[Task], completion_ids: Sequence[Sequence[int]], *, group_size: int | None = None
) -> tuple[Scores, list[Episode]]:
    """What a single-turn environment says of completions given as ids, and the episodes they make.

    Args:
        mdp: speaks the ids' tokenizer.
        tasks: one for each completion.
        completion_ids: the stop id included where the policy said it.
        group_size: rows of a prompt, neighbours; for rewards that compare them.
    """
    episodes = []
    for task, ids in zip(tasks, completion_ids, strict=True):
        episode = mdp.begin(task, 0, 0)
        mdp.end_turn(episode, [int(i) for i in ids], bool(len(ids)) and int(ids[-1]) in mdp.stop_ids)
        episodes.append(episode)
    scores = mdp.score(episodes, [True] * len(episodes))
    return (scores if group_size is None else _with_groups(mdp, episodes, scores, group_size)), episodes


def _with_groups(mdp: TextMDP, episodes: list[Episode], scores: Scores, group_size: int) -> Scores:
    if not mdp.has_reward or "group" not in mdp.reward.scopes.values():
        return scores
    ids = (np.arange(len(episodes)) // group_size).tolist()
    more = mdp.reward.score("group", *mdp.texts(episodes), **mdp.columns(episodes), group_ids=ids)
    total: FloatArray = scores.total + more.total
    return Scores(total, scores.valid & more.valid, {**scores.components, **more.components}, scores.token_rewards)


def _single_turn(mdp: TextMDP) -> TextMDP:
    if mdp.max_turns > 1:
        raise UserError(
            f"{mdp.id} has up to {mdp.max_turns} turns, and TRL's loop knows one: train it with rlalign's own trainer"
        )
    return mdp


def _columns(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k not in (*_OF_TRL, "completions")}


def _plain(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]


def _nullable(values: FloatArray) -> list[float | None]:
    return list(_each(values))


def _each(values: FloatArray) -> Iterator[float | None]:
    for value in values.tolist():
        yield None if math.isnan(value) else value

"""Several environments as one MDP, which hands each task to its environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from rlalign.envs.episode import Episode, TurnEnd
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.rewards import MixtureReward
from rlalign.envs.mixture.source import MixtureSource, tagged
from rlalign.envs.mixture.tokenizer import common_tokenizer
from rlalign.envs.mixture.weights import Weight, Weights
from rlalign.errors import UserError
from rlalign.tokenizers import as_tokenizer
from rlalign.types import FloatArray, Prompt, Reward, Scores, Task


class _OfParts:
    """An attribute of a mixture that follows from those of its environments. It has no `__set__`: one can be set.

    Args:
        name: of the attribute.
        reduce: of its values.
    """

    def __init__(self, name: str, reduce: Callable[[Any], Any]) -> None:
        self._name = name
        self._reduce = reduce

    def __get__(self, mixture: Any, owner: type) -> Any:
        """Return the reduced values of the environments; the default on the class."""
        if mixture is None:
            return getattr(TextMDP, self._name)
        return self._reduce([getattr(part, self._name) for part in mixture.parts.values()])


def _of_parts(name: str, reduce: Callable[[Any], Any]) -> Any:
    return _OfParts(name, reduce)


def _equal(values: Sequence[Any]) -> Any:
    """Return the value that all have, else None."""
    return values[0] if all(value == values[0] for value in values) else None


class Mixture(TextMDP):
    """Several environments as one `TextMDP`: a task belongs to the environment that its field `env` names.

    Each episode has the rewards, the limits of turns and tokens, and the messages of its environment. The limits of the
    mixture are the largest, which size the arrays. All environments have one tokenizer.

    Args:
        parts: name -> environment; names have no `/`.
        weights: name -> weight, a number or a schedule over training steps; None: equal. See
            `rlalign.envs.mixture.weights`.
        tokenizer: of all environments; None: the one they share, characters of all their alphabets, or bytes.

    Attributes:
        parts: name -> environment, with the common tokenizer.
        weights: weights over training steps.

    Raises:
        UserError: there are fewer than two environments, a name has a `/`, a weight has no environment, or environments
            end turns at different ids.

    Example:
        >>> from rlalign.envs.registration import make_mdp
        >>> mdp = Mixture({"sort": make_mdp("sort"), "add": make_mdp("add")}, {"sort": 3, "add": 1})
        >>> task = mdp.source.get("train", 1)
        >>> task.env, task.prompt == mdp.parts["add"].source.get("train", 0).prompt
        ('add', True)
    """

    max_prompt: int = _of_parts("max_prompt", max)
    max_new: int = _of_parts("max_new", max)
    max_turns: int = _of_parts("max_turns", max)
    max_reply: int = _of_parts("max_reply", max)
    gold_score: float | None = _of_parts("gold_score", _equal)
    chat: bool = _of_parts("chat", any)
    questions: bool = _of_parts("questions", all)
    drop_failed_replies: bool = _of_parts("drop_failed_replies", any)

    def __init__(  # the limits and the source are those of the environments
        self,
        parts: Mapping[str, TextMDP],
        weights: Mapping[str, Weight] | Weights | None = None,
        *,
        tokenizer: Any = None,
    ) -> None:
        if len(parts) < 2 or any("/" in name or not name for name in parts):
            raise UserError(
                f"a mixture: expected two environments or more with names without '/', got {list(parts)}; use "
                "Mixture({'a': ..., 'b': ...})"
            )
        if not isinstance(weights, Weights):
            weights = Weights(dict.fromkeys(parts, 1.0) if weights is None else weights, given=weights is not None)
        if weights.by_name.keys() != parts.keys():
            raise UserError(
                f"a mixture: expected a weight for each of {', '.join(parts)}, got those of "
                f"{', '.join(weights.by_name)}; name the environments alike"
            )
        self.id = " + ".join(parts)
        self.weights = weights
        common = common_tokenizer(parts.values()) if tokenizer is None else as_tokenizer(tokenizer)
        self._set_parts(
            {name: part if part.tokenizer is common else part.with_tokenizer(common) for name, part in parts.items()}
        )

    def _set_parts(self, parts: Mapping[str, TextMDP]) -> None:
        self.parts = dict(parts)
        self.source = MixtureSource({name: part.source for name, part in parts.items()})
        self.tokenizer = next(iter(parts.values())).tokenizer
        if len({frozenset(part.stop_ids) for part in parts.values()}) > 1:
            raise UserError(
                f"{self.id}: expected environments that end turns at the same ids, got "
                f"{[sorted(part.stop_ids) for part in parts.values()]}; train them in runs of their own"
            )

    # ---- copies with one part replaced ----

    def map(self, change: Callable[[TextMDP], TextMDP]) -> Self:
        """Return the mixture with each environment replaced.

        Args:
            change: environment -> the one in its place.
        """
        return self.with_parts({name: change(part) for name, part in self.parts.items()})

    def with_parts(self, parts: Mapping[str, TextMDP]) -> Self:
        """Return the mixture of other environments under the same names.

        Args:
            parts: name -> environment; all have one tokenizer.
        """
        copied = copy.copy(self)
        copied._set_parts(parts)
        return copied

    def with_reward(self, reward: Reward | None) -> Self:
        """Return a copy with other rewards.

        Args:
            reward: a `MixtureReward` of the same environments; None: no reward.
        """
        copied = copy.copy(self)
        copied.reward = reward
        return copied

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """Return a copy with another tokenizer (see `rlalign.tokenizers.as_tokenizer`)."""
        common = as_tokenizer(tokenizer)
        return self.map(lambda part: part.with_tokenizer(common))

    def with_limits(self, **limits: int | None) -> Self:
        """Return a copy whose environments have other limits; None keeps a value."""
        return self.map(lambda part: part.with_limits(**limits))

    # ---- what the environments decide ----

    @property
    def reward(self) -> Reward:
        """The rewards of all environments. Assigning None removes them."""
        return MixtureReward({name: part.reward for name, part in self.parts.items()})

    @reward.setter
    def reward(self, reward: Reward | None) -> None:
        if reward is not None and not (
            isinstance(reward, MixtureReward) and reward.rewards.keys() == self.parts.keys()
        ):
            raise UserError(
                f"the reward of {self.id}: expected a MixtureReward of its environments, got {type(reward).__name__}; "
                "use mixture.map(lambda part: part.with_reward(...))"
            )
        rewards = {} if reward is None else reward.rewards
        self._set_parts({name: part.with_reward(rewards.get(name)) for name, part in self.parts.items()})

    @property
    def has_reward(self) -> bool:
        """Whether an environment has a reward."""
        return any(part.has_reward for part in self.parts.values())

    @property
    def max_context(self) -> int:
        """L, the number of ids of the longest possible context."""
        return max(part.max_context for part in self.parts.values())

    @property
    def max_actions(self) -> int:
        """L_max, the most ids that a policy writes in an episode of any of the environments."""
        return max(part.max_actions for part in self.parts.values())

    @property
    def max_generated(self) -> int:
        """Number of ids after the prompt of the longest possible context: turns and environment messages."""
        return max(part.max_generated for part in self.parts.values())

    def part_of(self, task: Task) -> TextMDP:
        """Return the environment of a task.

        Raises:
            UserError: the task names none of the environments.
        """
        if task.env not in self.parts:
            raise UserError(
                f"{self.id}: expected a task of one of its environments, got one of '{task.env}'; use a task of the "
                "mixture's source, or the environment alone"
            )
        return self.parts[task.env]

    def turn_limit(self, task: Task) -> int:
        """Return the most token ids of a turn in an episode of a task."""
        return self.part_of(task).turn_limit(task)

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | str | None:
        """Return the message of the task's environment after a turn.

        Args:
            task: the initial state.
            turn_ids: ids that the policy generated.
            state: the episode's dictionary.
            rng: of the episode.
        """
        return self.part_of(task).reply(task, turn_ids, state, rng)

    def reference_turns(self, task: Task) -> Sequence[str] | None:
        """Return the reference trajectory of a task, as its environment gives it."""
        return self.part_of(task).reference_turns(task)

    def begin(self, task: Task, seed: int, episode: int) -> Episode:
        """Return a new episode in the task's environment.

        Args:
            task: the initial state.
            seed: of the environment.
            episode: number of the reset.
        """
        return self.part_of(task).begin(task, seed, episode)

    def policy_prompt(self, task: Task) -> Prompt:
        """Return the prompt of a task as the tokenizer encodes it."""
        return self.part_of(task).policy_prompt(task) if task.env else super().policy_prompt(task)

    def prompt_ids(self, task: Task) -> list[int]:
        """Return the ids of the initial context."""
        return self.part_of(task).prompt_ids(task)

    def end_turn(self, episode: Episode, turn_ids: list[int], stopped: bool) -> TurnEnd:
        """Record a finished turn and return the response of the episode's environment.

        Args:
            episode: changed in place.
            turn_ids: ids of the turn.
            stopped: a stop id ended the turn.
        """
        return self.part_of(episode.task).end_turn(episode, turn_ids, stopped)

    # ---- R ----

    def score(self, episodes: Sequence[Episode], over: Sequence[bool]) -> Scores:
        """Score n episodes whose turn has just ended, each with the rewards of its environment.

        Args:
            episodes: n episodes.
            over: n flags, true if the episode has ended.
        """

        def score(part: TextMDP, rows: list[int]) -> Scores:
            return part.score([episodes[i] for i in rows], [over[i] for i in rows])

        return self._merged(episodes, score)

    def score_groups(self, episodes: Sequence[Episode], group_ids: Sequence[int]) -> Scores:
        """Score n finished episodes with the rewards of group scope of their environments.

        Args:
            episodes: n episodes.
            group_ids: n numbers, equal for samples of one task.
        """

        def score(part: TextMDP, rows: list[int]) -> Scores:
            if "group" in part.reward.scopes.values():
                return part.score_groups([episodes[i] for i in rows], [group_ids[i] for i in rows])
            return Scores(np.zeros(len(rows)), np.ones(len(rows), np.bool_), {})

        return self._merged(episodes, score)

    def _merged(self, episodes: Sequence[Episode], score: Callable[[TextMDP, list[int]], Scores]) -> Scores:
        """Return the scores of rows of all environments in their places; a component of others is NaN."""
        names = MixtureReward({name: part.reward for name, part in self.parts.items()}).names
        rows_of: dict[str, list[int]] = {}
        for row, episode in enumerate(episodes):
            rows_of.setdefault(episode.task.env, []).append(row)
        n = len(episodes)
        total = np.zeros(n)
        valid = np.ones(n, np.bool_)
        components: dict[str, FloatArray] = {}
        tokens: dict[int, FloatArray] = {}
        for env in self.parts:  # in a fixed order, so that random rewards draw alike
            if env not in rows_of:
                continue
            rows = rows_of[env]
            scores = score(self.parts[env], rows)
            total[rows] = scores.total
            valid[rows] = scores.valid
            for component, values in scores.components.items():
                components.setdefault(names[env][component], np.full(n, np.nan))[rows] = values
            # strict=False: an environment without token rewards has no list
            tokens |= dict(zip(rows, scores.token_rewards or [], strict=False))
        if not tokens:
            return Scores(total, valid, components)
        per_token = [tokens.get(i, np.zeros(len(episodes[i].turns[-1]))) for i in range(n)]
        return Scores(total, valid, components, per_token)

    def tagged(self, name: str, task: Task) -> Task:
        """Return a task of one environment as a task of the mixture.

        Args:
            name: of the environment.
            task: one of its tasks.
        """
        return tagged(name, task)

"""The rewards of a mixture: those of each environment, under names that are common where they mean the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

from rlalign.errors import UserError
from rlalign.types import Prompt, Reward, Scope, Scores


class MixtureReward:
    """The rewards of the environments of a mixture as one `rlalign.types.Reward`.

    A component has its own name if all environments that have it give it one constant weight and one scope. Else it is
    `NAME[ENVIRONMENT]` of each, so that a constraint of one environment keeps its own multiplier. The mixture, which
    knows the environments of episodes, scores them.

    Args:
        rewards: environment -> its reward.

    Attributes:
        rewards: the same.
        names: environment -> component -> its name in the mixture.
    """

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self.rewards = dict(rewards)
        owners: dict[str, list[Reward]] = {}
        for reward in self.rewards.values():
            for component in reward.weights:
                owners.setdefault(component, []).append(reward)
        common = {component for component, own in owners.items() if _agree(component, own)}
        self.names = {
            env: {name: name if name in common else f"{name}[{env}]" for name in reward.weights}
            for env, reward in self.rewards.items()
        }

    @property
    def weights(self) -> Mapping[str, float]:
        """Component name -> current weight."""
        return self._by_name(lambda reward: reward.weights)

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """Component name -> scope."""
        return self._by_name(lambda reward: reward.scopes)

    @property
    def scheduled(self) -> Sequence[str]:
        """Names of the components whose weight changes during training."""
        return list(self._by_name(lambda reward: dict.fromkeys(reward.scheduled)))

    @property
    def out_of_process(self) -> bool:
        """Whether each component runs in a process of its own."""
        return all(getattr(reward, "out_of_process", False) for reward in self.rewards.values())

    @property
    def largest(self) -> float | None:
        """The largest reward, if it is known and equal in all environments; else None."""
        values = {getattr(reward, "largest", None) for reward in self.rewards.values()}
        return values.pop() if len(values) == 1 else None

    @property
    def message_readers(self) -> list[str]:
        """Names of the users' functions to which a completion of a conversation is a list of messages."""
        return list(self._by_name(lambda reward: dict.fromkeys(getattr(reward, "message_readers", ()))))

    def score(
        self,
        event: Literal["turn", "episode", "group"],
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[Any],
    ) -> Scores:
        """Refuse texts, whose environments are not known.

        Raises:
            UserError: always; `Mixture.score` and `Mixture.score_groups` score episodes.
        """
        raise UserError("the reward of a mixture: expected episodes, got texts; use the reward of one environment")

    def bind(self, policy: Any) -> None:
        """Pass the policy to the rewards of each environment."""
        for reward in self.rewards.values():
            reward.bind(policy)

    def begin_step(self, step: int) -> None:
        """Set the weights of a training step."""
        for reward in self.rewards.values():
            reward.begin_step(step)

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Record the mean of each component over the step's rollout; None if the step was abandoned."""
        for env, reward in self.rewards.items():
            if means is None:
                reward.end_step()
                continue
            own = {component: means.get(name, math.nan) for component, name in self.names[env].items()}
            # a component has no mean in a step without samples of its environment: its multiplier stays
            reward.end_step({component: mean for component, mean in own.items() if not math.isnan(mean)})

    def pop_failures(self) -> Mapping[str, Mapping[str, int]]:
        """Return component -> kind of failure -> count since the last call."""
        counts: dict[str, dict[str, int]] = {}
        for env, reward in self.rewards.items():
            for component, kinds in reward.pop_failures().items():
                total = counts.setdefault(self.names[env].get(component, component), {})
                for kind, count in kinds.items():
                    total[kind] = total.get(kind, 0) + count
        return counts

    def pop_logged(self) -> dict[str, float]:
        """Return `NAME/log/METRIC` -> what functions logged since the last call: the mean over the environments."""
        logged: dict[str, list[float]] = {}
        for env, reward in self.rewards.items():
            for key, value in getattr(reward, "pop_logged", dict)().items():
                component, slash, metric = key.partition("/log/")
                logged.setdefault(self.names[env].get(component, component) + slash + metric, []).append(value)
        return {key: sum(values) / len(values) for key, values in logged.items()}

    def for_evaluation(self) -> Self:
        """Return the rewards outside of training (see `rlalign.rewards.weighted_sum.RewardSum.for_evaluation`)."""
        return type(self)(
            {env: getattr(reward, "for_evaluation", lambda own=reward: own)() for env, reward in self.rewards.items()}
        )

    def state_dict(self) -> Mapping[str, Any]:
        """Return environment -> the state of its reward."""
        return {env: dict(reward.state_dict()) for env, reward in self.rewards.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the states of the environments that are named."""
        for env, reward in self.rewards.items():
            reward.load_state_dict(state.get(env, {}))

    def close(self) -> None:
        """End the worker processes."""
        for reward in self.rewards.values():
            reward.close()

    def _by_name(self, values: Callable[[Reward], Mapping[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for env, reward in self.rewards.items():
            merged |= {self.names[env][component]: value for component, value in values(reward).items()}
        return merged


def _agree(component: str, rewards: Sequence[Reward]) -> bool:
    """Return whether a component may have one name in all environments that have it."""
    if len(rewards) == 1:
        return True
    constant = all(component not in reward.scheduled for reward in rewards)
    return constant and len({(reward.weights[component], reward.scopes[component]) for reward in rewards}) == 1

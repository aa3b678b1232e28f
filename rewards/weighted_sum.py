"""Weighted sum of rewards: total = Σ weight · component, with every component reported separately.

Result of a component for a sample, and its effect on the sample:
    a float                       weight · value is added
    None ("does not apply")       the component is skipped, as in TRL. The sample is invalid only if no weighted
                                  component of the event applies (so a turn that earns nothing is worth 0.0, not None)
    NaN, or a dropped failure     the sample is invalid, independently of the other components: never a silent 0.0
    a failure with a number       that number
    ±inf, wrong length or type    RewardError
A component of weight 0 is a metric: it is reported, and its None, NaN or failure affects neither total nor validity.

A weight may be a schedule or the multiplier of a constraint (`rlalign.rewards.weights`). It then changes between
`begin_step` and `end_step`. At every step total = Σ weight · component holds, and both sides are logged.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import numpy as np

from rlalign.errors import RewardError, UserError
from rlalign.rewards.function import RewardFunction, is_built_in
from rlalign.rewards.guard import CallFailed, Guard
from rlalign.rewards.observed_call import STATE_IS_SHARED, Observer
from rlalign.rewards.returned_values import ComponentValues, constant_values, parse_returned
from rlalign.rewards.specs import Specs, WeightedReward, resolve
from rlalign.rewards.weights import Constraint, Schedule
from rlalign.types import FloatArray, Prompt, Scope, Scores

Event = Literal["turn", "episode", "group"]

_STATE_OF = "state of "  # begins the keys of objects' states; multipliers have the bare names of their components
_MESSAGES = "; completions of conversations are lists of messages: use @rlalign.reward(texts=True) to get texts"
HUGE = 1e6  # a larger reward is more likely a bug than intended, and one such sample dominates the gradient

_EVENT: dict[Scope, Event] = {"token": "turn", "turn": "turn", "episode": "episode", "group": "group"}


def compose(specs: Specs | None) -> RewardSum:
    """Return the weighted sum of rewards.

    A spec is `NAME[?parameter=value&...][=WEIGHT]`. NAME is registered, `package.module:function` or
    `path/to/file.py:function`. WEIGHT is

    - a number, by default 1; 0 makes the component a metric, which is reported and not added;
    - a schedule, `0.5@0:1.0@100`: linear between (step, weight) points;
    - a bound in its place, `toxicity<=0.1` or `length>=-0.5@0.2`, with the rate of the multiplier after `@` (see
      `Constraint`).

    In a value, write `&` as %26 and `%` as %25; in a final `=NUMBER` or `<=NUMBER` that is not a weight or bound, write
    `=` as %3D and `<` as %3C.

    Args:
        specs: a spec, a function, a pair of either with its weight, a list of these, or a mapping from specs or
            functions to weights. None: no reward.

    Raises:
        UnknownNameError: no reward has the name.
        UserError: a spec is malformed, has an unknown parameter, or gives a name twice.

    Example:
        >>> with compose(["length?target=2&unit=words", "distinct_n?ngram=1=0.5"]) as total:
        ...     scores = total.score("episode", ["Hi."] * 2, ["well well", "well"], [[1, 2], [1]])
        >>> total.weights
        {'length': 1.0, 'distinct_n': 0.5}
        >>> scores.components["length"].tolist(), scores.total.tolist()
        ([0.0, -0.5], [0.25, 0.0])
    """
    return RewardSum(resolve(specs))


class RewardSum:
    """Weighted sum of reward functions: total = Σ weight · component. `compose` builds it.

    The result of a function for a sample decides its part of the total:

    - a number is multiplied by the weight and added;
    - None ("does not apply") is skipped, as in TRL; the sample is invalid if no weighted component applies;
    - NaN, or a dropped failure, makes the sample invalid; its total is NaN, never a silent 0;
    - an infinite number, a wrong length or type is a RewardError.

    A component of weight 0 is a metric: it affects neither total nor validity. Between `begin_step` and `end_step`
    schedules and constraints have the weights of a training step; outside, a schedule has its last weight, and the
    weight of a constraint is 0. Close the sum, or use it as a context manager, to end its worker processes early.

    Args:
        items: rewards and their weights; names are distinct.
    """

    def __init__(self, items: Sequence[WeightedReward]) -> None:
        self._rewards = {reward.name: reward for reward, _ in items}
        self._observers = {name: Observer(reward) for name, reward in self._rewards.items()}
        self._guards = {name: Guard(observer.guarded()) for name, observer in self._observers.items()}
        self._weights = {reward.name: weight for reward, weight in items}
        self._multipliers = {name: 0.0 for name, weight in self._weights.items() if isinstance(weight, Constraint)}
        self._step: int | None = None  # None outside of training
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in self._guards}
        self._warned: set[tuple[str, str]] = set()

    @property
    def weights(self) -> Mapping[str, float]:
        """Component name -> current weight."""
        return {name: self._weight(name) for name in self._weights}

    @property
    def scheduled(self) -> list[str]:
        """Names of the components whose weight changes during training."""
        return [name for name, weight in self._weights.items() if isinstance(weight, Schedule | Constraint)]

    @property
    def largest(self) -> float | None:
        """The largest weighted sum, if every component of a weight has a range; else None."""
        total = 0.0
        for name, weight in self.weights.items():
            limits = self._guards[name].reward.range
            if limits is None and weight:
                return None
            total += max(weight * limit for limit in limits or (0.0,))
        return total

    @property
    def functions(self) -> list[RewardFunction]:
        """The functions with a weight; those of weight 0 are metrics."""
        return [reward for name, reward in self._rewards.items() if not self._is_metric(name)]

    @property
    def message_readers(self) -> list[str]:
        """Names of the users' functions to which a completion of a conversation is a list of messages."""
        own = [name for name, reward in self._rewards.items() if not is_built_in(reward.function)]
        return [name for name in own if not self._rewards[name].texts]

    @property
    def out_of_process(self) -> bool:
        """Whether every function runs in a worker process; False without functions."""
        return bool(self._guards) and all(guard.reward.timeout_s is not None for guard in self._guards.values())

    def _weight(self, name: str) -> float:
        weight = self._weights[name]
        if isinstance(weight, Schedule):
            return weight.at(self._step)
        if isinstance(weight, Constraint):
            return 0.0 if self._step is None else weight.weight(self._multipliers[name])
        return weight

    def _is_metric(self, name: str) -> bool:
        # Compares the definition: a schedule that has reached 0 does not make its component a metric.
        return self._weights[name] == 0.0

    def begin_step(self, step: int) -> None:
        """Set the weights of a training step.

        Args:
            step: number of the step, from 0.
        """
        self._step = step
        for observer in self._observers.values():
            observer.begin_step()

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Update the multipliers at the end of a step's rollout.

        Args:
            means: mean of each component over the rollout; None: the step was abandoned and changes nothing.
        """
        if means is None and self._step is not None:
            for observer in self._observers.values():
                observer.abandon_step()
        self._step = None
        for name, mean in (means or {}).items():
            constraint = self._weights.get(name)
            if isinstance(constraint, Constraint):
                self._multipliers[name] = constraint.updated(self._multipliers[name], mean)

    def for_evaluation(self) -> RewardSum:
        """Return a sum with the same worker processes, outside of training, whose objects are in their initial state.

        What an evaluation changes in a reward's state does not reach training, and each evaluation begins equally.
        """
        copied = copy.copy(self)
        copied._observers = {name: observer.fresh() for name, observer in self._observers.items()}
        copied._step = None
        return copied

    def state_dict(self) -> dict[str, Any]:
        """Return the multipliers of the constraints, and the states of objects with `state_dict`."""
        states = {f"{_STATE_OF}{name}": observer.state_dict() for name, observer in self._observers.items()}
        return self._multipliers | {key: state for key, state in states.items() if state is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore multipliers and states. Those of components that no longer exist are ignored."""
        self._multipliers |= {name: float(state[name]) for name in self._multipliers if name in state}
        for name, observer in self._observers.items():
            if f"{_STATE_OF}{name}" in state:
                observer.load_state_dict(state[f"{_STATE_OF}{name}"])

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """Component name -> scope."""
        return {name: guard.reward.scope for name, guard in self._guards.items()}

    @property
    def failures(self) -> dict[str, dict[str, int]]:
        """Component name -> kind -> count, without zeros.

        "raised", "timeout", "died": failed attempts, including those followed by a successful retry. "nan", "none",
        "huge" (above 1e6): samples.
        """
        counts = {name: self._counts[name] + guard.counts for name, guard in self._guards.items()}
        return {name: dict(kinds) for name, kinds in counts.items() if kinds}

    def pop_failures(self) -> dict[str, dict[str, int]]:
        """Return `failures` since the last call, and reset the counts."""
        failures = self.failures
        for name, guard in self._guards.items():
            guard.counts.clear()
            self._counts[name].clear()
        return failures

    def pop_logged(self) -> dict[str, float]:
        """Return `NAME/log/METRIC` -> mean of the values that functions passed to `log_metric` since the last call."""
        metrics: dict[str, float] = {}
        for name, observer in self._observers.items():
            metrics |= {f"{name}/log/{metric}": mean for metric, mean in observer.pop_metrics().items()}
        return metrics

    @property
    def needs_policy(self) -> bool:
        """Whether a function has the method `bind`."""
        return any(hasattr(reward.function, "bind") for reward in self._rewards.values())

    def bind(self, policy: Any) -> None:
        """Pass the policy to the functions that have `bind(policy)`; `bind` may return a replacement of the function.

        Raises:
            UserError: such a function has a timeout. A worker process has no policy.
        """
        for name, reward in self._rewards.items():
            bind = getattr(reward.function, "bind", None)
            if bind is None:
                continue
            if reward.timeout_s is not None:
                raise UserError(
                    f"reward '{name}': bind(policy) expected timeout_s=None, got {reward.timeout_s}; "
                    "use timeout_s=None to run in-process"
                )
            self._rewards[name] = replace(reward, function=bind(policy) or reward.function)
            self._observers[name] = Observer(self._rewards[name])
            self._guards[name] = Guard(self._observers[name].guarded())

    def score(
        self,
        event: Event,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Sequence[Any],
    ) -> Scores:
        """Score B texts with the components whose scope belongs to the event ("turn": turn and token scope).

        Args:
            event: "turn", "episode" or "group".
            prompts: B prompts, texts or conversations.
            completions: B texts.
            completion_ids: B lists of token ids.
            columns: further columns of the tasks, B entries each.

        Returns:
            The components of the event only. Without components, and for no texts, the total is a valid 0.0.

        Raises:
            RewardError: a component returned a wrong type, or failed with on_error="fail".
            UserError: a component needs a column that does not exist.
        """
        texts = {"prompts": prompts, "completions": as_trl(prompts, completions), "completion_ids": completion_ids}
        sizes = [len(ids) for ids in completion_ids]
        count = len(completions)
        total = np.zeros(count)
        valid = np.ones(count, np.bool_)
        applies = np.zeros(count, np.bool_)  # at least one weighted component applies to the sample
        has_weighted = False
        tokens: list[FloatArray] | None = None
        components: dict[str, FloatArray] = {}
        extra: dict[str, list[Any]] = {}
        for name, guard in self._guards.items():
            if _EVENT[guard.reward.scope] != event:
                continue
            scored = self._values(guard, {**texts, **columns}, completions, sizes)
            components[name] = scored.values
            extra |= self._observers[name].extra
            weight = self._weight(name)
            if self._is_metric(name):
                continue
            has_weighted = True
            applies |= ~scored.absent
            valid &= ~scored.failed
            # NaN becomes 0 here: an absent component adds nothing, and the total of a failed sample is NaN below.
            total += weight * np.nan_to_num(scored.values)
            if scored.tokens is not None:
                parts = [weight * part for part in scored.tokens]
                tokens = parts if tokens is None else [a + b for a, b in zip(tokens, parts, strict=True)]
        if has_weighted:
            valid &= applies
        total[~valid] = np.nan
        return Scores(total, valid, components, tokens, extra)

    def _values(
        self, guard: Guard, columns: Mapping[str, Any], completions: Sequence[str], sizes: Sequence[int]
    ) -> ComponentValues:
        reward = guard.reward
        per_token = reward.scope == "token"
        if not completions:
            return constant_values(0.0, sizes, per_token=per_token)
        observer = self._observers[reward.name]
        observer.extra = {}
        try:
            returned = observer.values(guard.call(observer.arguments(columns)), len(completions))
        except CallFailed as failure:
            as_messages = not isinstance(columns["completions"][0], str)
            return constant_values(self._failure_value(guard, failure, as_messages), sizes, per_token=per_token)
        component = parse_returned(reward.name, returned, completions, sizes, per_token=per_token)
        self._count(reward.name, component)
        if observer.changes:
            self._warn(reward.name, "state", STATE_IS_SHARED)
        return component

    def _failure_value(self, guard: Guard, failure: CallFailed, as_messages: bool) -> float:
        """Return the value that replaces a failed call; NaN drops the samples.

        Args:
            guard: of the reward.
            failure: of its last attempt.
            as_messages: the completions were lists of messages, which a function may take for texts.

        Raises:
            RewardError: on_error is "fail" and the component is weighted.
        """
        reward = guard.reward
        on_error = "drop" if self._is_metric(reward.name) and reward.on_error == "fail" else reward.on_error
        attempts = f"in {reward.retries + 1} attempts" if reward.retries else "in its only attempt"
        if on_error == "fail":
            error = RewardError(
                f"reward '{reward.name}' failed {attempts}: {failure.detail}; correct the function, or use "
                "@rlalign.reward(on_error='drop') or on_error=NUMBER"
                + (", or a longer time limit, timeout_s=..." if failure.kind == "timeout" else "")
                + (_MESSAGES if as_messages and reward.name in self.message_readers else "")
            )
            if failure.trace:
                error.add_note(failure.trace)
            raise error from failure
        consequence = "the samples are dropped" if on_error == "drop" else f"the samples get {on_error}"
        self._warn(reward.name, failure.kind, f"failed {attempts}: {failure.detail}; {consequence}")
        return np.nan if isinstance(on_error, str) else float(on_error)

    def _count(self, name: str, component: ComponentValues) -> None:
        """Count the samples without a value or with a huge one, and warn at the first occurrence of each kind."""
        huge = np.abs(component.values) > HUGE  # false for NaN
        kinds = {"nan": component.failed, "none": component.absent, "huge": huge}
        self._counts[name].update({kind: int(rows.sum()) for kind, rows in kinds.items() if rows.any()})
        if huge.any():
            first = component.values[huge][0]
            self._warn(
                name, "huge", f"returned {first:.3g}: one such sample dominates the gradient; rescale the reward"
            )
        if component.absent.all():
            self._warn(name, "none", "returned None for a whole batch")
        if component.failed.all():
            self._warn(name, "nan", "returned NaN for a whole batch; use None where the reward does not apply")

    def _warn(self, name: str, kind: str, text: str) -> None:
        if (name, kind) not in self._warned:
            self._warned.add((name, kind))
            # Level 5 is the caller of `score`.
            warnings.warn(f"reward '{name}' {text} (warned once, counted always)", RuntimeWarning, stacklevel=5)

    def close(self) -> None:
        """Kill the workers. The next call to `score` starts them again."""
        for guard in self._guards.values():
            guard.close()

    def __enter__(self) -> RewardSum:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def as_trl(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
    """Return completions in TRL's format: a message list if the prompt is a conversation, else a text."""
    pairs = zip(prompts, completions, strict=True)
    return [c if isinstance(p, str) else [{"role": "assistant", "content": c}] for p, c in pairs]

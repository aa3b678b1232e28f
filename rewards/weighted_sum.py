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

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import numpy as np

from rlalign.errors import RewardError, UserError
from rlalign.rewards.guard import CallFailed, Guard
from rlalign.rewards.returned_values import ComponentValues, constant_values, parse_returned
from rlalign.rewards.specs import Specs, WeightedReward, resolve
from rlalign.rewards.weights import Constraint, Schedule
from rlalign.types import FloatArray, Prompt, Scope, Scores

Event = Literal["turn", "episode", "group"]

HUGE = 1e6  # a larger reward is more likely a bug than intended, and one such sample dominates the gradient

_EVENT: dict[Scope, Event] = {"token": "turn", "turn": "turn", "episode": "episode", "group": "group"}


def compose(specs: Specs | None) -> RewardSum:
    """Return the weighted sum of rewards: `compose(["vader", "repetition=0.5", (f, 2.0)])`.

    Args:
        specs: see `rlalign.rewards.specs`.

    Raises:
        UserError: a spec is malformed.
    """
    return RewardSum(resolve(specs))


class RewardSum:
    """A `rlalign.types.Reward`. Close it, or use it as a context manager, to end its workers early.

    Args:
        items: rewards and their weights; names are distinct.
    """

    def __init__(self, items: Sequence[WeightedReward]) -> None:
        self._guards = {reward.name: Guard(reward) for reward, _ in items}
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
        """Set the weights of training step `step` (from 0)."""
        self._step = step

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """Update the multipliers at the end of a step's rollout.

        Args:
            means: mean of each component over the rollout; None: the step was abandoned and changes nothing.
        """
        self._step = None
        for name, mean in (means or {}).items():
            constraint = self._weights.get(name)
            if isinstance(constraint, Constraint):
                self._multipliers[name] = constraint.updated(self._multipliers[name], mean)

    def state_dict(self) -> dict[str, float]:
        """Return the multipliers of the constraints, the only state of a composition."""
        return dict(self._multipliers)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore multipliers. Those of constraints that no longer exist are ignored."""
        self._multipliers |= {name: float(state[name]) for name in self._multipliers if name in state}

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

    @property
    def needs_policy(self) -> bool:
        """Whether a function has the method `bind`."""
        return any(hasattr(guard.reward.function, "bind") for guard in self._guards.values())

    def bind(self, policy: Any) -> None:
        """Pass the policy to the functions that have `bind(policy)`; `bind` may return a replacement of the function.

        Raises:
            UserError: such a function has a timeout. A worker process has no policy.
        """
        for name, guard in self._guards.items():
            bind = getattr(guard.reward.function, "bind", None)
            if bind is None:
                continue
            if guard.reward.timeout_s is not None:
                raise UserError(
                    f"reward '{name}': bind(policy) expected timeout_s=None, got {guard.reward.timeout_s}; "
                    "use timeout_s=None to run in-process"
                )
            self._guards[name] = Guard(replace(guard.reward, function=bind(policy) or guard.reward.function))

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
        texts = {"prompts": prompts, "completions": _as_trl(prompts, completions), "completion_ids": completion_ids}
        sizes = [len(ids) for ids in completion_ids]
        count = len(completions)
        total = np.zeros(count)
        valid = np.ones(count, np.bool_)
        applies = np.zeros(count, np.bool_)  # at least one weighted component applies to the sample
        has_weighted = False
        tokens: list[FloatArray] | None = None
        components: dict[str, FloatArray] = {}
        for name, guard in self._guards.items():
            if _EVENT[guard.reward.scope] != event:
                continue
            scored = self._values(guard, {**texts, **columns}, completions, sizes)
            components[name] = scored.values
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
        return Scores(total, valid, components, tokens)

    def _values(
        self, guard: Guard, columns: Mapping[str, Any], completions: Sequence[str], sizes: Sequence[int]
    ) -> ComponentValues:
        reward = guard.reward
        per_token = reward.scope == "token"
        if not completions:
            return constant_values(0.0, sizes, per_token=per_token)
        try:
            returned = guard.call(reward.arguments(columns))
        except CallFailed as failure:
            return constant_values(self._failure_value(guard, failure), sizes, per_token=per_token)
        component = parse_returned(reward.name, returned, completions, sizes, per_token=per_token)
        self._count(reward.name, component)
        return component

    def _failure_value(self, guard: Guard, failure: CallFailed) -> float:
        """Return the value that replaces a failed call; NaN drops the samples.

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


def _as_trl(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
    """Return completions in TRL's format: a message list if the prompt is a conversation, else a text."""
    pairs = zip(prompts, completions, strict=True)
    return [c if isinstance(p, str) else [{"role": "assistant", "content": c}] for p, c in pairs]

"""Several rewards as one: total = Σ weight · component, every component reported by itself.

What a component says of a sample, and what becomes of the sample:
    a float                       weight · value is added
    None ("does not apply")       the component is skipped, as TRL does; the sample is invalid only when no weighted
                                  component of the event applies (so a turn that earns nothing is worth 0.0, not None)
    NaN, or a failure dropped     the sample is invalid, whatever the other components say: never a silent 0.0
    a failure with a number       that number
    ±inf, wrong length or type    RewardError
A component of weight 0 is a metric: it is reported, and its None, NaN or failure never touches total or validity.

A weight may follow a schedule or be the multiplier of a constraint (`rlalign.rewards.weights`). Then it moves between
`begin_step` and `end_step`, at every moment total = Σ weight · component holds, and both sides are logged.
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
from rlalign.rewards.returned_values import Values, read, same
from rlalign.rewards.specs import Specs, Weighted, resolve
from rlalign.rewards.weights import Constraint, Schedule
from rlalign.types import FloatArray, Prompt, Scope, Scores

Event = Literal["turn", "episode", "group"]

HUGE = 1e6  # beyond this a reward is more likely a bug than a wish, and one sample takes over the gradient

_EVENT: dict[Scope, Event] = {"token": "turn", "turn": "turn", "episode": "episode", "group": "group"}


def compose(specs: Specs | None) -> RewardSum:
    """The weighted sum of rewards (see `rlalign.rewards.specs`): `compose(["vader", "repetition=0.5", (f, 2.0)])`."""
    return RewardSum(resolve(specs))


class RewardSum:
    """A `rlalign.types.Reward`. Close it, or use it as a context manager, to end its workers early.

    Args:
        items: rewards and their weights; names are distinct.
    """

    def __init__(self, items: Sequence[Weighted]) -> None:
        self._guards = {reward.name: Guard(reward) for reward, _ in items}
        self._weights = {reward.name: weight for reward, weight in items}
        self._multipliers = {name: 0.0 for name, weight in self._weights.items() if isinstance(weight, Constraint)}
        self._step: int | None = None
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in self._guards}
        self._warned: set[tuple[str, str]] = set()

    @property
    def weights(self) -> Mapping[str, float]:
        """Component name -> weight, as it is now."""
        return {name: self._weight(name) for name in self._weights}

    @property
    def scheduled(self) -> list[str]:
        """Names of the components whose weight is no constant."""
        return [name for name, weight in self._weights.items() if isinstance(weight, Schedule | Constraint)]

    @property
    def out_of_process(self) -> bool:
        """Whether there are functions, and every one runs in a worker process."""
        return bool(self._guards) and all(g.reward.timeout_s is not None for g in self._guards.values())

    def _weight(self, name: str) -> float:
        weight = self._weights[name]
        if isinstance(weight, Schedule):
            return weight.at(self._step)
        if isinstance(weight, Constraint):
            return 0.0 if self._step is None else weight.weight(self._multipliers[name])
        return weight

    def _is_metric(self, name: str) -> bool:
        return self._weights[name] == 0.0  # one that has come to 0 on its way is none

    def begin_step(self, step: int) -> None:
        """Training step `step` (from 0) begins: give the weights that belong to it."""
        self._step = step

    def end_step(self, means: Mapping[str, float] | None = None) -> None:
        """The step's rollout is over, with these means of its components: let the multipliers follow.

        Without means it was given up: nothing is remembered of it.
        """
        self._step = None
        for name, mean in (means or {}).items():
            constraint = self._weights.get(name)
            if isinstance(constraint, Constraint):
                self._multipliers[name] = constraint.follow(self._multipliers[name], mean)

    def state_dict(self) -> dict[str, float]:
        """The multipliers of the constraints: all that a composition remembers."""
        return dict(self._multipliers)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up multipliers; those of constraints that are no more are left out."""
        self._multipliers |= {name: float(state[name]) for name in self._multipliers if name in state}

    @property
    def scopes(self) -> Mapping[str, Scope]:
        """Component name -> scope."""
        return {name: guard.reward.scope for name, guard in self._guards.items()}

    @property
    def failures(self) -> dict[str, dict[str, int]]:
        """Component name -> kind -> count, without those that are nought.

        "raised", "timeout", "died": failed attempts, those that a retry mended included. "nan", "none", "huge" (above
        1e6): samples.
        """
        both = {name: self._counts[name] + guard.counts for name, guard in self._guards.items()}
        return {name: dict(counts) for name, counts in both.items() if counts}

    def pop_failures(self) -> dict[str, dict[str, int]]:
        """`failures` since the last call."""
        counted = self.failures
        for name, guard in self._guards.items():
            guard.counts.clear()
            self._counts[name].clear()
        return counted

    @property
    def asks_for_policy(self) -> bool:
        """Whether a function has `bind`."""
        return any(hasattr(guard.reward.function, "bind") for guard in self._guards.values())

    def bind(self, policy: Any) -> None:
        """Give the policy to the functions that ask for it: those with `bind(policy)`, which may return the function
        to use from then on. Raises UserError for one that is to run in a worker, where no policy is."""
        for name, guard in self._guards.items():
            bind = getattr(guard.reward.function, "bind", None)
            if bind is None:
                continue
            if guard.reward.timeout_s is not None:
                raise UserError(f"reward '{name}' has bind(policy), so it runs in-process: give it timeout_s=None")
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

        The result has the components of the event only. Without any, and for no texts, it is a valid 0.0.

        Raises:
            RewardError: a component returned what is no reward, or failed with on_error="fail".
            UserError: a component needs a column that is not there.
        """
        texts = {"prompts": prompts, "completions": _as_trl(prompts, completions), "completion_ids": completion_ids}
        sizes = [len(ids) for ids in completion_ids]
        count = len(completions)
        total, valid = np.zeros(count), np.ones(count, np.bool_)
        applies, judged = np.zeros(count, np.bool_), False
        tokens: list[FloatArray] | None = None
        components: dict[str, FloatArray] = {}
        for name, guard in self._guards.items():
            if _EVENT[guard.reward.scope] != event:
                continue
            found = self._values(guard, {**texts, **columns}, completions, sizes)
            components[name] = found.values
            weight = self._weight(name)
            if self._is_metric(name):
                continue
            judged = True
            applies |= ~found.absent
            valid &= ~found.failed
            total += weight * np.nan_to_num(found.values)
            if found.tokens is not None:
                parts = [weight * part for part in found.tokens]
                tokens = parts if tokens is None else [a + b for a, b in zip(tokens, parts, strict=True)]
        if judged:
            valid &= applies
        total[~valid] = np.nan
        return Scores(total, valid, components, tokens)

    def _values(
        self, guard: Guard, columns: Mapping[str, Any], completions: Sequence[str], sizes: Sequence[int]
    ) -> Values:
        reward = guard.reward
        per_token = reward.scope == "token"
        if not completions:
            return same(0.0, sizes, per_token=per_token)
        try:
            returned = guard.call(reward.arguments(columns))
        except CallFailed as failure:
            return same(self._worth_of_failure(guard, failure), sizes, per_token=per_token)
        found = read(reward.name, returned, completions, sizes, per_token=per_token)
        self._count(reward.name, found)
        return found

    def _worth_of_failure(self, guard: Guard, failure: CallFailed) -> float:
        """The value that stands for a failure; NaN: dropped. Raises RewardError where a failure ends the run."""
        reward = guard.reward
        on_error = "drop" if self._is_metric(reward.name) and reward.on_error == "fail" else reward.on_error
        attempts = f"in {reward.retries + 1} attempts" if reward.retries else "in its only attempt"
        if on_error == "fail":
            error = RewardError(
                f"reward '{reward.name}' failed {attempts}: {failure.detail}. Mend the function, or say above it "
                "what a failure is worth: @rlalign.reward(on_error='drop') or a number"
                + (", or give it more time: timeout_s=..." if failure.kind == "timeout" else "")
            )
            if failure.trace:
                error.add_note(failure.trace)
            raise error from failure
        worth = "the samples are dropped" if on_error == "drop" else f"the samples get {on_error}"
        self._warn(reward.name, failure.kind, f"failed {attempts}: {failure.detail}; {worth}")
        return np.nan if isinstance(on_error, str) else float(on_error)

    def _count(self, name: str, found: Values) -> None:
        huge = np.abs(found.values) > HUGE  # false for NaN
        kinds = {"nan": found.failed, "none": found.absent, "huge": huge}
        self._counts[name].update({kind: int(rows.sum()) for kind, rows in kinds.items() if rows.any()})
        if huge.any():
            worst = found.values[huge][0]
            self._warn(name, "huge", f"returned {worst:.3g}: one such sample takes over the gradient; rescale it")
        if found.absent.all():
            self._warn(name, "none", "returned None for a whole batch")
        if found.failed.all():
            self._warn(name, "nan", "returned NaN for a whole batch: give a number, or None where it does not apply")

    def _warn(self, name: str, kind: str, text: str) -> None:
        if (name, kind) not in self._warned:
            self._warned.add((name, kind))
            warnings.warn(f"reward '{name}' {text} (said once, counted always)", RuntimeWarning, stacklevel=5)

    def close(self) -> None:
        """Kill the workers. The next call to `score` starts them again."""
        for guard in self._guards.values():
            guard.close()

    def __enter__(self) -> RewardSum:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _as_trl(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[Any]:
    """Completions as TRL gives them: a message list where the prompt is a conversation, else a text."""
    pairs = zip(prompts, completions, strict=True)
    return [c if isinstance(p, str) else [{"role": "assistant", "content": c}] for p, c in pairs]

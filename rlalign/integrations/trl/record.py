"""Record of a TRL training run: a reward function and callback that writes metrics under rlalign's keys."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.integrations.trl.bridge import score
from rlalign.log.diagnostics import gold_of, rollout_diagnostics
from rlalign.log.metrics import logged_metrics, rollout_metrics, samples_of
from rlalign.rollout.collect import Rollout
from rlalign.tokenizers import chat_text
from rlalign.training.stop_request import StopRequest
from rlalign.types import Task

# TRL's key -> rlalign's key.
_KEYS = {"loss": "train/loss", "grad_norm": "train/grad_norm", "clip_ratio/region_mean": "train/clip_fraction"}

OnStep = Callable[[int, dict[str, float], list[dict[str, Any]]], None]


class EndsOnRequest(TrainerCallback):
    """Callback that ends TRL's training after the current step if a stop was requested.

    Args:
        stop: the request.
    """

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End TRL's training if a stop was requested."""
        if self.stop:
            control.should_training_stop = True


class Recorder(EndsOnRequest):
    """TRL's reward function and callback in one object: scores rollouts with the environment and reports each step.

    A step is one rollout and its optimizer steps. `time/rollout` is the time from the end of the previous step to the
    last reward, `time/update` the time after it.

    Args:
        mdp: the environment, bound to the policy's tokenizer.
        tasks: the tasks of the rows of the data set, in order.
        group_size: rows per prompt.
        updates: optimizer steps per step.
        on_step: called with the number of a finished step, its metrics and some samples.
        stop: a request to end training after the current update.

    Raises:
        UserError: for an environment without a reward.
    """

    __name__ = "reward"  # TRL names its metrics after the reward function

    def __init__(
        self,
        mdp: TextMDP,
        tasks: Sequence[Task],
        *,
        group_size: int,
        updates: int,
        on_step: OnStep,
        stop: StopRequest,
    ) -> None:
        super().__init__(stop)
        if not mdp.has_reward:
            raise UserError(f"{mdp.id} has no reward: add --reward NAME")
        self.mdp = mdp
        self.tasks = tasks
        self.group_size = group_size
        self.updates = updates
        self.reward = mdp.reward
        self.gold = gold_of(mdp, mdp.reward.weights)
        self.on_step = on_step
        self.step = 0
        self._metrics: dict[str, float] = {}
        self._samples: list[dict[str, Any]] = []
        self._logged: dict[str, list[float]] = {}  # TRL's metrics of the updates of the current step
        self._step_start = self._scored_at = time.perf_counter()

    # ---- as a reward function ----

    def __call__(self, completion_ids: Sequence[Sequence[int]], task: Sequence[int], **keywords: Any) -> Any:
        """Return the environment's reward of each completion, None for a failed reward."""
        self.reward.begin_step(self.step)
        weights = self.reward.weights
        rollout = as_rollout(self.mdp, [self.tasks[i] for i in task], completion_ids, self.group_size)
        self._samples = samples_of(rollout)
        self._metrics = rollout_metrics(rollout) | rollout_diagnostics(rollout, self.mdp, self.gold)
        self._metrics |= logged_metrics(self.reward)
        for name, kinds in self.reward.pop_failures().items():
            self._metrics |= {f"reward/{name}/{kind}": float(n) for kind, n in kinds.items() if n}
        self._metrics |= {f"reward/{name}/weight": weights[name] for name in self.reward.scheduled}
        self.reward.end_step({name: float(values.nanmean()) for name, values in rollout.components.items()})
        self._scored_at = time.perf_counter()
        return [None if math.isnan(value) else value for value in rollout.returns.tolist()]

    # ---- as a callback ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._step_start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Collect TRL's metrics of an update; after the last update of a rollout, report the step."""
        if not logs or "loss" not in logs:
            return
        for name, value in logs.items():
            if name in (*_KEYS, "entropy", "kl") and value is not None:
                self._logged.setdefault(name, []).append(float(value))
        if state.global_step % self.updates == 0:
            self._report()

    def _report(self) -> None:
        now = time.perf_counter()
        means = {name: sum(values) / len(values) for name, values in self._logged.items()}
        metrics = self._metrics | {_KEYS[name]: value for name, value in means.items() if name in _KEYS}
        metrics["rollout/entropy"] = means.get("entropy", float("nan"))
        if "kl" in means:  # TRL's KL is per token, rollout/kl per completion
            metrics["rollout/kl"] = means["kl"] * metrics["rollout/length"]
        seconds = now - self._step_start
        metrics |= {
            "rollout/draws": 1.0,  # TRL draws each rollout once
            "time/rollout": self._scored_at - self._step_start,
            "time/update": now - self._scored_at,
            "time/step": seconds,
            "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9),
        }
        self.step += 1
        self.on_step(self.step, metrics, self._samples)
        self._logged = {}
        self._step_start = time.perf_counter()  # the time of on_step does not count


def as_rollout(
    mdp: TextMDP, tasks: Sequence[Task], completion_ids: Sequence[Sequence[int]], group_size: int
) -> Rollout:
    """Return the `Rollout` of completions that TRL sampled; its sampler log-probs are 0, because TRL keeps its own.

    Args:
        mdp: the environment, bound to the policy's tokenizer.
        tasks: one per completion.
        completion_ids: with the stop id if the policy sampled it.
        group_size: number of consecutive rows per prompt.
    """
    scores, episodes = score(mdp, tasks, completion_ids, group_size=group_size)
    rows = [(mdp.prompt_ids(task), list(ids)) for task, ids in zip(tasks, completion_ids, strict=True)]
    lengths = torch.tensor([len(prompt) + len(completion) for prompt, completion in rows])
    tokens = torch.full((len(rows), int(lengths.max())), mdp.tokenizer.pad_id)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion)
        tokens[row, :length] = torch.tensor(prompt + completion)
        mask[row, len(prompt) : length] = True
    rewards = torch.zeros(tokens.shape)
    valid = torch.from_numpy(scores.valid)
    # The whole reward is on the last token; a failed one (NaN) becomes 0 and is marked in `valid`.
    rewards[torch.arange(len(rows)), lengths - 1] = torch.from_numpy(scores.total).float().nan_to_num()
    truncated = torch.tensor([episode.truncated for episode in episodes])
    return Rollout(
        tokens=tokens,
        lengths=lengths,
        action_mask=mask,
        sampler_logprobs=torch.zeros(tokens.shape),
        rewards=rewards,
        valid=valid,
        components={name: torch.from_numpy(values) for name, values in scores.components.items()},
        group_ids=torch.arange(len(rows)) // group_size,
        terminated=~truncated,
        truncated=truncated,
        tasks=list(tasks),
        prompts=[chat_text(task.prompt) for task in tasks],
        completions=["\n".join(episode.texts) for episode in episodes],
        messages=[episode.messages(mdp.policy_prompt(episode.task)) for episode in episodes],
        extra=[episode.extra for episode in episodes],
    )

"""What TRL does, written down in our words: the scorer that sees every rollout, and the callback that ends a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from rlalign.envs.mdp import TextMDP
from rlalign.errors import UserError
from rlalign.integrations.trl.bridge import score
from rlalign.log.diagnostics import gold_of, rollout_diagnostics
from rlalign.log.metrics import rollout_metrics, samples_of
from rlalign.rollout.collect import Rollout
from rlalign.tokenizers import chat_text
from rlalign.training.stop_request import StopRequest
from rlalign.types import Task

_KEYS = {"loss": "train/loss", "grad_norm": "train/grad_norm", "clip_ratio/region_mean": "train/clip_fraction"}

OnStep = Callable[[int, dict[str, float], list[dict[str, Any]]], None]


class Recorder(TrainerCallback):
    """TRL's reward function and callback in one: it scores with the environment and reports every step.

    `time/rollout` is the time from the end of the last step to the last reward, `time/update` the rest.

    Args:
        mdp: scores; speaks the policy's tokens.
        tasks: of the rows of the dataset, in order.
        group_size: rows of one prompt.
        updates: optimizer steps of a step.
        on_step: gets the number of a finished step, its metrics and some samples.
        stop: ends training after the update under way.
    """

    __name__ = "reward"

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
        if not mdp.has_reward:
            raise UserError(f"{mdp.id} has no reward: say --reward")
        self.mdp, self.tasks, self.group_size, self.updates = mdp, tasks, group_size, updates
        self.reward, self.gold = mdp.reward, gold_of(mdp, mdp.reward.weights)
        self.on_step, self.stop = on_step, stop
        self.step = 0
        self._metrics: dict[str, float] = {}
        self._samples: list[dict[str, Any]] = []
        self._pending: dict[str, list[float]] = {}
        self._began = self._scored = time.perf_counter()

    # ---- as a reward function ----

    def __call__(self, completion_ids: Sequence[Sequence[int]], task: Sequence[int], **given: Any) -> Any:
        """The environment's reward of each completion, None where it failed."""
        self.reward.begin_step(self.step)
        weights = self.reward.weights
        rollout = played(self.mdp, [self.tasks[i] for i in task], completion_ids, self.group_size)
        self._samples = samples_of(rollout)
        self._metrics = rollout_metrics(rollout) | rollout_diagnostics(rollout, self.mdp, self.gold)
        for name, kinds in self.reward.pop_failures().items():
            self._metrics |= {f"reward/{name}/{kind}": float(n) for kind, n in kinds.items() if n}
        self._metrics |= {f"reward/{name}/weight": weights[name] for name in self.reward.scheduled}
        self.reward.end_step({name: float(values.nanmean()) for name, values in rollout.components.items()})
        self._scored = time.perf_counter()
        return [None if r != r else r for r in rollout.returns.tolist()]

    # ---- as a callback ----

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask TRL to stop where we are asked to."""
        if self.stop:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Take over TRL's numbers of an update; with the last update of a rollout, report the step."""
        if not logs or "loss" not in logs:
            return
        for name, value in logs.items():
            if name in (*_KEYS, "entropy", "kl") and value is not None:
                self._pending.setdefault(name, []).append(float(value))
        if state.global_step % self.updates == 0:
            self._report()

    def _report(self) -> None:
        now = time.perf_counter()
        means = {name: sum(values) / len(values) for name, values in self._pending.items()}
        metrics = self._metrics | {_KEYS[name]: value for name, value in means.items() if name in _KEYS}
        metrics["rollout/entropy"] = means.get("entropy", float("nan"))
        if "kl" in means:  # TRL's is per token; ours is per completion
            metrics["rollout/kl"] = means["kl"] * metrics["rollout/length"]
        seconds = now - self._began
        metrics |= {
            "rollout/draws": 1.0,
            "time/rollout": self._scored - self._began,
            "time/update": now - self._scored,
            "time/step": seconds,
            "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9),
        }
        self.step += 1
        self.on_step(self.step, metrics, self._samples)
        self._pending = {}
        self._began = time.perf_counter()


def played(mdp: TextMDP, tasks: Sequence[Task], completion_ids: Sequence[Sequence[int]], group_size: int) -> Rollout:
    """Completions from elsewhere as the rollout that they would have been here, but for the sampler's log-probs."""
    scores, episodes = score(mdp, tasks, completion_ids, group_size=group_size)
    contexts = [(mdp.prompt_ids(t), list(ids)) for t, ids in zip(tasks, completion_ids, strict=True)]
    lengths = torch.tensor([len(p) + len(c) for p, c in contexts])
    tokens = torch.full((len(contexts), int(lengths.max())), mdp.tokenizer.pad_id)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (prompt, said) in enumerate(contexts):
        tokens[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
        mask[row, len(prompt) : len(prompt) + len(said)] = True
    rewards = torch.zeros(tokens.shape)
    valid = torch.from_numpy(scores.valid)
    rewards[torch.arange(len(contexts)), lengths - 1] = torch.from_numpy(scores.total).float().nan_to_num()
    truncated = torch.tensor([e.truncated for e in episodes])
    return Rollout(
        tokens=tokens,
        lengths=lengths,
        action_mask=mask,
        sampler_logprobs=torch.zeros(tokens.shape),
        rewards=rewards,
        valid=valid,
        components={k: torch.from_numpy(v) for k, v in scores.components.items()},
        group_ids=torch.arange(len(contexts)) // group_size,
        terminated=~truncated,
        truncated=truncated,
        tasks=list(tasks),
        prompts=[chat_text(t.prompt) for t in tasks],
        completions=["\n".join(e.texts) for e in episodes],
    )

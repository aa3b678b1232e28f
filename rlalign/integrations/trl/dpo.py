"""Training on pairs by TRL's DPOTrainer (Rafailov et al. 2023, arXiv:2305.18290).

The loss of a pair is -log sigmoid(beta · (log pi/ref(chosen) - log pi/ref(rejected))), with log-probs of whole
completions at temperature 1. The reference policy is the initial one. Loss, gradient and optimizer step are TRL's; the
token ids, the order of the pairs, the optimizer and its schedule are the run's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.integrations.trl.contexts import detach, silenced, stop_ids
from rlalign.integrations.trl.dpo_settings import dpo_arguments
from rlalign.integrations.trl.held_out import preference_metrics
from rlalign.integrations.trl.pairs import Pair, Pairs, pair_order
from rlalign.integrations.trl.record import OnStep
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.policies.causal import CausalPolicy
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.stop_request import StopRequest

# TRL's key -> rlalign's key.
_KEYS = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "rewards/accuracies": "preference/accuracy",
    "rewards/margins": "preference/margin",
    "rewards/chosen": "preference/chosen_reward",
    "rewards/rejected": "preference/rejected_reward",
    "logps/chosen": "preference/chosen_logprob",
    "logps/rejected": "preference/rejected_logprob",
}


def train_on_pairs(
    config: TrainConfig, policy: CausalPolicy, mdp: TextMDP, pairs: Pairs, *, on_step: OnStep, stop: StopRequest
) -> int:
    """Train the policy's model in place and return the number of steps that were made.

    Args:
        config: of the run.
        policy: with the initial weights, which are the reference.
        mdp: the environment, bound to the policy's tokenizer.
        pairs: of the data.
        on_step: called with the number of a finished step, its metrics and no samples.
        stop: a request to end training after the current step.
    """
    ln = config.learner
    arguments = dpo_arguments(config, cpu=policy.device.type == "cpu", bf16=policy.compute_dtype == torch.bfloat16)
    optimizer = torch.optim.AdamW(
        list(policy.trainable().values()), lr=ln.lr, betas=(ln.beta1, ln.beta2), weight_decay=ln.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(ln, config.steps))
    order = pair_order(len(pairs.train), config.steps * config.rollout.prompts, config.seed)
    recorder = _Recorder(config, policy, pairs, order, on_step, stop)
    with tempfile.TemporaryDirectory() as scratch, silenced(), stop_ids(policy.lm, mdp):
        trainer = pair_trainer(
            policy.model, pairs.train, order, {"output_dir": scratch, **arguments}, TrlTokenizer(mdp.tokenizer),
            callbacks=[recorder], optimizers=(optimizer, schedule),
        )  # fmt: skip
        recorder.start()
        trainer.train()
    detach(policy)
    return recorder.step


def pair_trainer(
    model: Any,
    pairs: Sequence[Pair],
    order: Sequence[int],
    arguments: Mapping[str, Any],
    processing_class: Any,
    **options: Any,
) -> Any:
    """Return TRL's DPOTrainer on token ids in a given order. Log-probs of the reference are computed at once.

    Args:
        model: a transformers or peft model.
        pairs: the training data.
        order: numbers of the pairs, in the order of training.
        arguments: of DPOConfig.
        processing_class: has the ids of EOS and padding.
        options: of DPOTrainer.
    """
    import datasets
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    class PairTrainer(DPOTrainer):  # type: ignore[misc]  # untyped in TRL
        """DPOTrainer on rows that have ids already."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return order

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            """Add the reference log-probs of the rows that are read; TRL's own version draws a bar and caches files."""
            needed = sorted(set(order))
            columns: dict[str, list[float]] = {
                f"ref_{side}_logps": [0.0] * len(dataset) for side in ("chosen", "rejected")
            }
            for start in range(0, len(needed), batch_size):
                part = needed[start : start + batch_size]
                batch = self._prepare_inputs(self.data_collator([dataset[i] for i in part]))
                results = self.compute_ref_log_probs(self.model, batch)
                for values, logprobs in zip(columns.values(), results, strict=True):
                    for i, value in zip(part, logprobs.tolist(), strict=True):
                        values[i] = value
            for column, values in columns.items():
                dataset = dataset.add_column(column, values)
            return dataset

    rows = [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
    trainer = PairTrainer(
        model=model,
        args=DPOConfig(**arguments),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processing_class,
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Recorder(TrainerCallback):
    """Callback that reports each step under rlalign's keys, with the held-out pairs when the run is evaluated."""

    def __init__(
        self,
        config: TrainConfig,
        policy: CausalPolicy,
        pairs: Pairs,
        order: Sequence[int],
        on_step: OnStep,
        stop: StopRequest,
    ) -> None:
        self.config = config
        self.policy = policy
        self.pairs = pairs
        self.order = order
        self.on_step = on_step
        self.stop = stop
        self.step = 0
        self._step_start = time.perf_counter()

    def start(self) -> None:
        """Start the clock: the trainer has been built."""
        self._step_start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End TRL's training if a stop was requested."""
        if self.stop:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Report the step that TRL logs."""
        if not logs or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._step_start
        per_step = self.config.rollout.prompts
        part = self.order[self.step * per_step : (self.step + 1) * per_step]
        tokens = sum(self.pairs.train[i].tokens for i in part)
        metrics = {_KEYS[name]: float(value) for name, value in logs.items() if name in _KEYS and value is not None}
        metrics |= {
            "preference/tokens": float(tokens),
            "preference/passes": (self.step + 1) * per_step / len(self.pairs.train),
            "time/update": seconds,
            "time/step": seconds,
            "time/tokens_per_s": tokens / max(seconds, 1e-9),
        }
        self.step += 1
        every = self.config.evaluation.every
        if self.pairs.held_out and (self.step == self.config.steps or (every and self.step % every == 0)):
            metrics |= preference_metrics(self.policy, self.pairs.held_out, self.config.objective.kl.coef)
        self.on_step(self.step, metrics, [])
        self._step_start = time.perf_counter()  # the time of on_step does not count

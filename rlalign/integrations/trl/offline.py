"""Training on recorded data by TRL's SFTTrainer, DPOTrainer and KTOTrainer.

Loss, gradient and optimizer step are TRL's. The token ids, the masks, the order of the data, the optimizer and its
schedule are those of a run of rlalign's own trainer. The reference policy is the initial one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.integrations.trl.contexts import detach, silenced, stop_ids
from rlalign.integrations.trl.offline_settings import offline_arguments
from rlalign.integrations.trl.offline_trainers import TRAINERS
from rlalign.integrations.trl.record import EndsOnRequest, OnStep
from rlalign.integrations.trl.tokenizer import TrlTokenizer
from rlalign.log.metrics import recorded_metrics, samples_of
from rlalign.policies.causal import CausalPolicy
from rlalign.recorded.read import RecordedData
from rlalign.rollout.recorded import GroupOrder, RecordedRollouts
from rlalign.training.lr_schedule import lr_factor
from rlalign.training.rng import task_seed
from rlalign.training.stop_request import StopRequest

# TRL's key -> rlalign's key.
_KEYS = {"loss": "train/loss", "grad_norm": "train/grad_norm"}
_PREFERENCE_KEYS = {
    "rewards/chosen": "preference/chosen_reward",
    "rewards/rejected": "preference/rejected_reward",
    "logps/chosen": "preference/chosen_logprob",
    "logps/rejected": "preference/rejected_logprob",
}
_KEYS_OF = {
    "trl:sft": _KEYS,
    "trl:dpo": {
        **_KEYS,
        **_PREFERENCE_KEYS,
        "rewards/accuracies": "preference/accuracy",
        "rewards/margins": "preference/margin",
    },
    # TRL's margin of KTO is a difference of means over different completions
    "trl:kto": {**_KEYS, **_PREFERENCE_KEYS, "kl": "preference/reference_point"},
}


def train_on_data(
    config: TrainConfig,
    policy: CausalPolicy,
    mdp: TextMDP,
    data: RecordedData,
    *,
    on_step: OnStep,
    stop: StopRequest,
) -> int:
    """Train the policy's model in place and return the number of steps that were made.

    Args:
        config: of the run, with an algorithm of `rlalign.algorithms.OFFLINE`.
        policy: with the initial weights, which are the reference.
        mdp: the environment, bound to the policy's tokenizer.
        data: of the kind that the algorithm learns from.
        on_step: called with the number of a finished step, its metrics and some of its trajectories.
        stop: a request to end training after the current step.
    """
    ln = config.learner
    arguments = offline_arguments(config, cpu=policy.device.type == "cpu", bf16=policy.compute_dtype == torch.bfloat16)
    optimizer = torch.optim.AdamW(
        list(policy.trainable().values()), lr=ln.lr, betas=(ln.beta1, ln.beta2), weight_decay=ln.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(ln, config.steps))
    recorder = _Recorder(config, data, on_step, stop)
    options = {}
    if config.algorithm == "trl:kto" and policy.model is policy.lm:  # of an adapter TRL turns off or copies its own
        options["ref_model"] = policy.reference
    order = GroupOrder(len(data.train), task_seed(config.seed)).next(config.steps * config.rollout.prompts)
    with tempfile.TemporaryDirectory() as scratch, silenced(), stop_ids(policy.lm, mdp):
        trainer = TRAINERS[config.algorithm](
            policy.model, data.train, order, {"output_dir": scratch, **arguments},
            processing_class=TrlTokenizer(mdp.tokenizer), callbacks=[recorder], optimizers=(optimizer, schedule),
            **options,
        )  # fmt: skip
        recorder.start()
        trainer.train()
    detach(policy)
    return recorder.step


class _Recorder(EndsOnRequest):
    """Callback that reports each step under rlalign's keys."""

    def __init__(self, config: TrainConfig, data: RecordedData, on_step: OnStep, stop: StopRequest) -> None:
        super().__init__(stop)
        self.keys = _KEYS_OF[config.algorithm]
        self.source = RecordedRollouts(data.train, per_step=config.rollout.prompts, seed=task_seed(config.seed))
        self.on_step = on_step
        self.step = 0
        self._step_start = time.perf_counter()

    def start(self) -> None:
        """Start the clock: the trainer has been built."""
        self._step_start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Report the step that TRL logs."""
        if not logs or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._step_start
        rollout = self.source.draw(self.step).rollout
        metrics = {
            self.keys[name]: float(value) for name, value in logs.items() if name in self.keys and value is not None
        }
        metrics |= recorded_metrics(rollout, self.source.passes)
        metrics |= {
            "time/update": seconds,
            "time/step": seconds,
            "time/tokens_per_s": metrics["rollout/tokens"] / max(seconds, 1e-9),
        }
        self.step += 1
        self.on_step(self.step, metrics, samples_of(rollout))
        self._step_start = time.perf_counter()  # the time of on_step does not count

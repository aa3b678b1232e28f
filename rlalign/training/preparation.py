"""A rollout as a batch of the objective: the log-probs and values that models compute before the updates."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlalign.config.schema import LearnerConfig
from rlalign.objective import Batch, Objective, reference_point
from rlalign.policies.base import Policy, ReferenceScorer, TokenScores
from rlalign.policies.scoring.packing import to_device
from rlalign.rollout.collect import Rollout
from rlalign.rollout.source import TokenRows
from rlalign.training.micro_batches import MicroBatcher
from rlalign.types import Sampling


def reuses(config: LearnerConfig) -> bool:
    """Return whether several updates are made from a rollout."""
    return config.epochs * config.minibatches > 1


class Preparation:
    """Computes what an objective reads besides rewards, once per rollout and without gradient.

    Args:
        policy: in training.
        objective: decides what is computed.
        config: reuse of rollouts, and the source of old log-probs.
        sampling: the distribution that actions were drawn from.
        micro_batcher: of the learner.
        max_length: L_max, the limit of action tokens per episode.
        reference: gives the log-probs of the KL's reference policy: the policy itself, a teacher, or a former policy.
        second_reference: of a second reference policy; None: there is one only.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        config: LearnerConfig,
        sampling: Sampling,
        micro_batcher: MicroBatcher,
        max_length: int,
        *,
        reference: ReferenceScorer,
        second_reference: ReferenceScorer | None = None,
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.config = config
        self.sampling = sampling
        self.micro_batcher = micro_batcher
        self.max_length = max_length
        self.reference = reference
        self.second_reference = second_reference

    def precompute(
        self, tokens: Tensor, lengths: Tensor, mask: Tensor, *, recorded: bool = False
    ) -> dict[str, Tensor | None]:
        """Return the fields of a `Batch` that models compute and rewards do not change.

        These are reference log-probs, values and old log-probs, as far as the objective reads them.

        Args:
            tokens: int64 [N, L] of a rollout, as in `Rollout`.
            lengths: int64 [N].
            mask: bool [N, L], the action mask.
            recorded: the rollout was recorded, so that its log-probs are not those of this policy.
        """
        objective = self.objective
        batcher = self.micro_batcher
        computed: dict[str, Tensor | None] = {}
        recompute = self._needs_own_logprobs if recorded else reuses(self.config) and self._recompute_old()
        with torch.no_grad():
            if objective.needs_reference:
                score_reference = partial(self._score_reference, self.reference)
                computed["ref_logprobs"] = batcher.score_all(score_reference, tokens, lengths, mask).logprobs
                if self.second_reference is not None:
                    score_reference = partial(self._score_reference, self.second_reference)
                    computed["second_ref_logprobs"] = batcher.score_all(score_reference, tokens, lengths, mask).logprobs
            if objective.needs_values or recompute:
                score = partial(self.policy.score, sampling=self.sampling, values=objective.needs_values)
                scores = batcher.score_all(score, tokens, lengths, mask)
                computed |= {"old_values": scores.values, "final_values": scores.final_values}
                if recompute:
                    computed["old_logprobs"] = scores.logprobs
        return computed

    def batch(
        self,
        rollout: Rollout,
        *,
        precomputed: dict[str, Tensor | None] | None,
        mismatched: TokenRows | None,
        recorded: bool,
    ) -> Batch:
        """Return a rollout as a batch on the policy's device, without advantages.

        Args:
            rollout: N trajectories.
            precomputed: the result of `precompute`; None: it is computed here.
            mismatched: prompts with completions of other prompts, for KTO's reference point; None: not needed.
            recorded: the rollout was recorded.
        """
        if precomputed is None:
            precomputed = self.precompute(rollout.tokens, rollout.lengths, rollout.action_mask, recorded=recorded)
        batch = Batch(
            action_mask=rollout.action_mask,
            rewards=rollout.rewards,
            group_ids=rollout.group_ids,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            sampler_logprobs=rollout.sampler_logprobs,
            valid=rollout.valid,
            max_length=self.max_length,
        ).to(self.policy.device)
        batch = replace(batch, **precomputed)  # type: ignore[arg-type]  # its keys are names of tensors only
        reads_sampler = reuses(self.config) or self.config.old_logprobs == "sampler"
        if batch.old_logprobs is None and batch.sampler_logprobs is not None and reads_sampler:
            batch = replace(batch, old_logprobs=batch.sampler_logprobs)
        if mismatched is not None:
            batch = replace(batch, reference_point=self._reference_point(mismatched).expand(len(rollout)))
        return batch

    def _score_reference(
        self, reference: ReferenceScorer, tokens: Tensor, lengths: Tensor, mask: Tensor
    ) -> TokenScores:
        return TokenScores(reference.reference_logprobs(tokens, lengths, mask, self.sampling))

    def _reference_point(self, rows: TokenRows) -> Tensor:
        """Return KTO's reference point, a scalar on the policy's device, from prompts with other prompts' answers."""
        arguments = (rows.tokens, rows.lengths, rows.action_mask)
        with torch.no_grad():
            score = partial(self.policy.score, sampling=self.sampling)
            logprobs = self.micro_batcher.score_all(score, *arguments).logprobs
            score_reference = partial(self._score_reference, self.reference)
            reference = self.micro_batcher.score_all(score_reference, *arguments).logprobs
            return reference_point(logprobs, reference, to_device(rows.action_mask, self.policy.device))

    @property
    def _needs_own_logprobs(self) -> bool:
        """Whether updates on recorded rows read the log-probs of this policy before the update."""
        objective = self.objective
        if objective.is_preference or (self.config.old_logprobs == "sampler" and objective.ratio != "none"):
            return False
        return objective.reuses or objective.kl.where == "reward"

    def _recompute_old(self) -> bool:
        choice = self.config.old_logprobs
        return choice == "recompute" or (choice == "auto" and self.policy.compute_dtype != torch.float32)

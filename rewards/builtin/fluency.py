"""Reward for the probability of a text under the reference policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.types import Sampling

_ROWS = 32  # completions per forward pass


class Fluency:
    """Mean log-prob per token of the completion under the frozen reference policy, at least `floor`.

    The reference policy is the initial policy: the model without its adapter, or a copy of its first weights. It runs
    on the policy's device, at temperature 1. The context is the prompt and the completion; environment messages are not
    in it. The first `limit` tokens are scored; None for a completion without tokens.

    Range: [floor, 0], in nats.
    Cost: one forward pass per completion.
    Deterministic on one machine.
    Hacked by: repetition, which a language model finds ever more probable, and stock phrases.

    Raises:
        UserError: no policy was bound, as in an evaluation of texts alone.
    """

    def __init__(self, policy: Any = None) -> None:
        self._policy = policy

    def bind(self, policy: Any) -> Fluency:
        """Return the same reward under the reference of this policy."""
        return Fluency(policy)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        *,
        floor: float = -10.0,
        limit: int = 512,
        **columns: Any,
    ) -> list[float | None]:
        """Return the mean log-probs of B completions.

        Args:
            prompts: B prompts.
            completions: not used; the ids are scored.
            completion_ids: B lists of token ids.
            floor: least value.
            limit: number of tokens that are scored.
            columns: ignored.
        """
        if self._policy is None:
            raise UserError("reward 'fluency': expected a bound policy, got none; use it in a run")
        encode = self._policy.tokenizer.encode_prompt
        contexts = [list(encode(prompt)) for prompt in prompts]
        scored_ids = [list(ids[:limit]) for ids in completion_ids]
        means: list[float | None] = []
        for start in range(0, len(scored_ids), _ROWS):
            means += self._means(contexts[start : start + _ROWS], scored_ids[start : start + _ROWS])
        return [None if mean is None else max(floor, mean) for mean in means]

    def _means(self, contexts: Sequence[list[int]], scored_ids: Sequence[list[int]]) -> list[float | None]:
        import torch

        rows = [torch.tensor(context + ids) for context, ids in zip(contexts, scored_ids, strict=True)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        starts = torch.tensor([len(context) for context in contexts])
        positions = torch.arange(tokens.shape[1])
        # [rows, T]: True on completion tokens, False on the context and on padding.
        mask = (positions >= starts[:, None]) & (positions < lengths[:, None])
        if not bool(mask.any()):
            return [None] * len(scored_ids)
        device = self._policy.device
        with torch.no_grad():
            logprobs = self._policy.reference_logprobs(
                tokens.to(device), lengths.to(device), mask.to(device), Sampling()
            )
        sums = logprobs.double().sum(1).tolist()
        return [total / len(ids) if ids else None for total, ids in zip(sums, scored_ids, strict=True)]


fluency = reward("fluency", timeout_s=None, range=(-10.0, 0.0))(Fluency())

"""How probable a text is to the policy as it was at its start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.types import Sampling

_ROWS = 32  # scored at once


class Fluency:
    """Mean log-prob per token of the completion under the frozen start of the policy, at least `floor`.

    The start is the policy's own reference (the model without its adapter, or a copy of its first weights), on the
    policy's device, at temperature 1. The context is the prompt and what the policy said; replies of an environment are
    not in it. The first `limit` tokens are scored; None where there is none. Range: [floor, 0], in nats. Cost: a
    forward pass a completion. Deterministic on one machine.
    Hacked by: repetition, which a language model finds ever more probable, and by stock phrases.
    Raises UserError when no policy was bound, as in evaluation of texts alone.
    """

    def __init__(self, policy: Any = None) -> None:
        self._policy = policy

    def bind(self, policy: Any) -> Fluency:
        """The same reward under this policy's reference."""
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
        """Mean log-probs of B completions."""
        if self._policy is None:
            raise UserError("reward 'fluency' needs the policy whose start it reads: use it in a run")
        encode = self._policy.tokenizer.encode_prompt
        contexts = [list(encode(prompt)) for prompt in prompts]
        said = [list(ids[:limit]) for ids in completion_ids]
        means: list[float | None] = []
        for start in range(0, len(said), _ROWS):
            means += self._means(contexts[start : start + _ROWS], said[start : start + _ROWS])
        return [None if mean is None else max(floor, mean) for mean in means]

    def _means(self, contexts: Sequence[list[int]], said: Sequence[list[int]]) -> list[float | None]:
        import torch

        rows = [torch.tensor(context + ids) for context, ids in zip(contexts, said, strict=True)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        begins = torch.tensor([len(context) for context in contexts])
        columns = torch.arange(tokens.shape[1])
        mask = (columns >= begins[:, None]) & (columns < lengths[:, None])
        if not bool(mask.any()):
            return [None] * len(said)
        device = self._policy.device
        with torch.no_grad():
            found = self._policy.reference_logprobs(tokens.to(device), lengths.to(device), mask.to(device), Sampling())
        sums = found.double().sum(1).tolist()
        return [total / len(ids) if ids else None for total, ids in zip(sums, said, strict=True)]


fluency = reward("fluency", timeout_s=None, range=(-10.0, 0.0))(Fluency())

"""Log-probs of a policy and of its initial policy, and the distance of written weights from them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rlalign.policies.adapter_kinds.virtual_tokens import VirtualTokens
from rlalign.policies.options import PolicyOptions
from rlalign.policies.rounding import rounded_embeddings
from rlalign.policies.weight_dtype import float32_copy

BOUND = 1e-3
"""Nats per token. What was written is the policy if no log-prob differs by more.

More is allowed for a model with more rounding of its own: ten times the median change of its log-probs under
`rounded_embeddings`, up to `_LARGEST_BOUND`. Positions that change by more than a tenth of the bound are not compared.
"""
_LARGEST_BOUND = 1e-2
_COSINE = 0.99
"""Of the change of the log-probs that the written weights hold with the change that was trained."""
_NOISE = 1e-5
"""Nats per token. A change below it is rounding of float32, whose direction means nothing."""
_ROWS = 8
_TOKENS = 32
"""Rows, and tokens per row, that are compared."""
_FEW = 64
"""Tokens below which drawn rows are added."""
_FLOOR = -30.0
"""Log-probs below it are equal: a token of probability 1e-13 is not drawn, and its log-prob has no accuracy."""


class Exportable(Protocol):
    """The parts of a `CausalPolicy` that are written and measured."""

    model: Any
    reference: Any
    options: PolicyOptions
    stored_dtype: torch.dtype
    virtual: VirtualTokens | None

    @property
    def lm(self) -> Any:
        """The transformers model, with its adapters."""

    @property
    def has_adapter(self) -> bool:
        """True if an adapter is trained over frozen weights."""
        ...

    @property
    def has_reference(self) -> bool:
        """True if the initial policy is kept."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the frozen weights under an adapter."""
        ...


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance of written weights from the policy.

    Attributes:
        nats: largest difference of a log-prob, over all tokens of the vocabulary at each position.
        cosine: of the change from the initial policy that the written weights hold with the change of the policy; None
            if the initial policy is not known.
        bound: nats up to which the written weights are the policy.
    """

    nats: float
    cosine: float | None
    bound: float = BOUND

    @property
    def is_policy(self) -> bool:
        """True if the written weights are the policy."""
        return self.nats <= self.bound

    @property
    def loses_nothing(self) -> bool:
        """True if the written weights are the policy and hold what was trained."""
        return self.is_policy and self.cosine is not None and self.cosine >= _COSINE

    def __str__(self) -> str:
        if self.cosine is None:
            return f"{self.nats:.1e} nats, and its change from the initial policy, which was not kept, is not known"
        return f"{self.nats:.1e} nats, and hold a change of cosine {self.cosine:.3f} with the trained one"


class Measure:
    """Log-probs of a policy and of its initial policy on fixed tokens, in float32 on the CPU.

    Args:
        policy: the policy.
        held_out: token ids of contexts; drawn ids are added if these are few.
    """

    def __init__(self, policy: Exportable, held_out: Sequence[Sequence[int]]) -> None:
        config = policy.lm.config.get_text_config()
        longest = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
        rows = [list(row[:longest]) for row in held_out[:_ROWS]]
        if sum(map(len, rows)) < _FEW:
            rows += [row[:longest] for row in _drawn_rows(policy.lm.get_input_embeddings().weight.shape[0])]
        self.rows = [torch.as_tensor(row) for row in rows]
        model = float32_copy(policy.model)
        logprobs = self._logprobs(model)
        with rounded_embeddings(_plain(model)):
            changes = (self._logprobs(model) - logprobs).abs().amax(-1)
        self.bound = min(max(BOUND, 10 * float(changes.median())), _LARGEST_BOUND)
        # a position that is not finite is compared, so that no weights are the policy
        self._kept = (changes <= self.bound / 10) | ~changes.isfinite()
        if self._kept.sum() < len(changes) / 2:
            self._kept = torch.ones_like(self._kept)
        self._policy = logprobs[self._kept]
        self._initial = self._initial_logprobs(policy, model)

    def _initial_logprobs(self, policy: Exportable, model: Any) -> Tensor | None:
        """Return the log-probs of the initial policy; None if the policy keeps no reference. `model` is changed."""
        if not policy.has_reference:
            return None
        if policy.virtual is not None:
            model.prompt_encoder["default"].load_state_dict(policy.reference.state_dict())
        elif policy.reference is not None:
            quantized = policy.options.base != "none"  # the copy has plain layers in place of quantized ones
            reference = float32_copy(policy.reference) if quantized else policy.reference
            weights = dict(_plain(model).named_parameters())  # the reference has these names
            for name, initial in reference.named_parameters():
                weights[name].data.copy_(initial)
        with model.disable_adapter() if policy.reference is None else nullcontext():
            return self._logprobs(model)[self._kept]

    @torch.no_grad()
    def _logprobs(self, model: Any) -> Tensor:
        """Return log-probs [tokens, V] of a float32 model on the CPU. Each row is read alone, so nothing is padded."""
        # peft returns the logits of the virtual tokens of a prompt too
        rows = [model(input_ids=row[None], use_cache=False).logits[0, -len(row) :].float() for row in self.rows]
        return torch.cat(rows).log_softmax(-1).clamp(min=_FLOOR)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are compared."""
        return len(self._policy)

    def distance(self, model: Any) -> Distance:
        """Return the distance of a loaded float32 model from the policy.

        Args:
            model: a transformers or peft model on the CPU.
        """
        logprobs = self._logprobs(model)[self._kept]
        if logprobs.shape != self._policy.shape:  # a vocabulary of another size
            return Distance(float("inf"), None, self.bound)
        difference = (logprobs - self._policy).abs().max()
        nats = float("inf") if difference.isnan() else float(difference)
        return Distance(nats, self._cosine(logprobs, nats), self.bound)

    def _cosine(self, logprobs: Tensor, nats: float) -> float | None:
        """Return the cosine of a `Distance` for log-probs that are `nats` from the policy's."""
        if self._initial is None:
            return None
        trained = (self._policy - self._initial).flatten()
        if trained.abs().max() <= _NOISE:  # nothing was trained, so that the distance alone decides
            return 1.0 if nats <= self.bound else 0.0
        # in float64: the sum over millions of log-probs is otherwise off in the third digit
        held = (logprobs - self._initial).flatten()
        return float(cosine_similarity(trained.double(), held.double(), dim=0))


def _plain(model: Any) -> Any:
    """Return the transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _drawn_rows(vocab_size: int) -> list[list[int]]:
    """Return rows of drawn token ids, of different lengths; the same in each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in (4, 9, 16, 33)]

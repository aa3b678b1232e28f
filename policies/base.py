"""The policy interface: score given tokens for the learner, decode new tokens for the samplers.

One layout everywhere: `tokens [N, L]` holds contexts, right-padded from column 0. `lengths [N]` holds their true
lengths. `action_mask [N, L]` is true at each token that the policy chose. A quantity of the token at column t (its
log-prob, the value of the state before it) is stored at column t. Padding is identified by masks and lengths alone,
never by token id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rlalign.errors import FaultError, UserError
from rlalign.policies.device import on_device
from rlalign.types import Sampling, Tokenizer


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of given tokens under a policy; 0 outside the action mask.

    Attributes:
        logprobs: float32 [N, L], log pi(token_t | tokens_<t) under the sampling distribution.
        entropies: float32 [N, L] of the same distribution in nats, if requested.
        values: float32 [N, L], V(tokens_<t) at each action, if requested.
        final_values: float32 [N], V of the complete context, if values were requested. It bootstraps truncated
            episodes.
    """

    logprobs: Tensor
    entropies: Tensor | None = None
    values: Tensor | None = None
    final_values: Tensor | None = None

    def padded(self, width: int) -> TokenScores:
        """Return the scores with columns of zeros appended, up to a width.

        Args:
            width: number of columns, at least that of the scores.
        """
        padding = (0, width - self.logprobs.shape[1])
        if padding == (0, 0):
            return self
        return TokenScores(
            logprobs=pad(self.logprobs, padding),
            entropies=None if self.entropies is None else pad(self.entropies, padding),
            values=None if self.values is None else pad(self.values, padding),
            final_values=self.final_values,
        )


class DecodeState(Protocol):
    """A cache of n contexts, to each of which one more token can be appended. `Policy.prefill` makes it."""

    def select(self, rows: Tensor) -> None:
        """Keep the given rows and drop the others, in place.

        Args:
            rows: int64 indices, in the new order.
        """
        ...


class ReferenceScorer(Protocol):
    """Gives the log-probs of the reference policy of a KL: the frozen initial policy, or a teacher."""

    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Return float32 [N, L] log-probs of the masked tokens, without gradient; 0 off the mask."""
        ...


def check_contexts(contexts: Sequence[Sequence[int]]) -> None:
    """Raise UserError if a context is empty: the first token would have nothing to be predicted from."""
    if not all(len(context) for context in contexts):
        raise UserError("expected contexts of at least one token, got an empty one; start contexts with BOS")


class Policy(nn.Module, ABC):
    """A language model that acts: `score` for the learner, `prefill` and `decode` for the samplers.

    One layout everywhere: `tokens [N, L]` holds contexts, right-padded from column 0. `lengths [N]` holds their true
    lengths. `action_mask [N, L]` is true at each token that the policy chose. A quantity of the token at column t (its
    log-prob, the value of the state before it) is stored at column t. Padding is identified by masks and lengths alone,
    never by token id.

    A subclass implements `_score` and `_reference_logprobs`, which get checked arguments of `score` and
    `reference_logprobs`, and `prefill`, `decode` and `save_pretrained`. The modules stay in eval mode (no dropout)
    during training too.

    Attributes:
        tokenizer: the meaning of the token ids.
        requires_context: true if a token can be predicted only from at least one token before it.
        notes: how the policy was built, if there was a choice: lines that a run prints once.
        path_summary: one line on how rows are scored and contexts decoded, and why; empty if there is one way only.
    """

    tokenizer: Tokenizer
    notes: Sequence[str] = ()
    path_summary: str = ""
    requires_context: ClassVar[bool] = True

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Format that log-probs are computed in: float32, or bfloat16, where sampler and scores differ by 2e-2."""
        return torch.float32

    @property
    def max_positions(self) -> int | None:
        """Largest number of tokens of a context; None without a limit."""
        return None

    @property
    def hidden_size(self) -> int:
        """Width d of the input embeddings."""
        return int(self.input_embeddings().shape[1])

    @property
    def has_values(self) -> bool:
        """True if `score` can return values."""
        return False

    @property
    def has_reference(self) -> bool:
        """True if the policy holds a reference policy for `reference_logprobs`."""
        return True

    def input_embeddings(self) -> Tensor:
        """Return the current input embeddings, [V, d], without gradient.

        Raises:
            UserError: this kind of policy has no input embeddings.
        """
        raise UserError(
            f"expected a policy with input embeddings, got a {type(self).__name__}; use a causal policy or gru"
        )

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: with dropout the scored distribution would differ from the sampled one.

        Args:
            mode: not used.
        """
        super().train(False)
        return self

    # ---- scoring, for the learner ----

    def score(
        self,
        tokens: Tensor,
        lengths: Tensor,
        action_mask: Tensor,
        sampling: Sampling,
        *,
        entropy: bool = False,
        values: bool = False,
    ) -> TokenScores:
        """Score the masked tokens, with gradient to the trainable parameters.

        Columns beyond the longest row are not read, and are 0 in the result.

        Args:
            tokens: int64 [N, L]. The three tensors may be on any device. The CPU is best, because their shape can then
                be read without waiting for the device.
            lengths: int64 [N].
            action_mask: bool [N, L].
            sampling: the distribution that the tokens were drawn from.
            entropy: also return entropies.
            values: also return values.

        Returns:
            Scores of shape [N, L], 0 off the mask; see `TokenScores`.

        Raises:
            UserError: values are requested and the policy has none, or an action has no context.

        Example:
            >>> from rlalign.policies.factory import make_policy
            >>> from rlalign.tokenizers import CharTokenizer
            >>> policy = make_policy("tabular", tokenizer=CharTokenizer("ab"))  # uniform over 4 tokens
            >>> tokens, lengths = torch.tensor([[2, 3, 1]]), torch.tensor([3])
            >>> mask = torch.tensor([[False, True, True]])  # column 0 is the prompt
            >>> policy.score(tokens, lengths, mask, Sampling()).logprobs.exp().tolist()
            [[1.0, 0.25, 0.25]]
        """
        if values and not self.has_values:
            raise UserError("expected a policy with values, got one without; use --objective.value.kind head or model")
        self._check_actions(lengths, action_mask)
        width = int(lengths.max())
        tokens_read = tokens[:, :width]
        with on_device(self.device):
            scores = self._score(tokens_read, lengths, action_mask[:, :width], sampling, entropy=entropy, values=values)
        return scores.padded(tokens.shape[1])

    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Return float32 [N, L] log-probs under the frozen reference policy, without gradient; 0 off the mask.

        The reference policy is the initial policy of this run: a copy of its weights, or the model with its adapter
        disabled. It is never loaded again by name.

        Args:
            tokens: int64 [N, L].
            lengths: int64 [N].
            action_mask: bool [N, L].
            sampling: the distribution that the tokens were drawn from.

        Raises:
            UserError: the policy was built without a reference, or an action has no context.
        """
        if not self.has_reference:
            raise UserError("expected a policy with a reference, got one without; build it with keep_reference=True")
        self._check_actions(lengths, action_mask)
        with torch.no_grad(), on_device(self.device):
            return self._reference_logprobs(tokens, lengths, action_mask, sampling)

    def _check_actions(self, lengths: Tensor, action_mask: Tensor) -> None:
        """Raise UserError if a row is empty or has an action at column 0, where the policy requires a context."""
        if self.requires_context and bool((action_mask[:, :1].any(dim=1) | (lengths == 0)).any()):
            raise UserError(
                "expected a context before each action, got an action at column 0 or an empty row; "
                "start contexts with BOS"
            )

    @abstractmethod
    def _score(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, *, entropy: bool, values: bool
    ) -> TokenScores:
        """Implement `score`, whose checks have passed."""

    @abstractmethod
    def _reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Implement `reference_logprobs`, whose checks have passed; gradients are disabled."""

    # ---- decoding, for the samplers; always without gradient ----

    @abstractmethod
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it.

        Args:
            contexts: token ids of each context.
            repeats: copies of each context, in order.

        Returns:
            A state of Σ repeats rows, and the float32 logits [Σ repeats, V] of the next token.
        """

    @abstractmethod
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each of the n rows and return the float32 logits [n, V] of the next token.

        Args:
            state: of `prefill`, changed in place.
            tokens: int64 [n], on the policy's device.
        """

    def begin_rollout(self) -> None:
        """Invalidate copies of the weights; called before decoding whenever the weights may have changed."""
        return None

    # ---- parameters and files ----

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimizer updates, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def value_trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters used by the value alone: by convention their names begin with `value`."""
        return {name: parameter for name, parameter in self.trainable().items() if name.startswith("value")}

    def load_trainable(self, weights: Mapping[str, Tensor]) -> None:
        """Copy named tensors into the trainable parameters.

        Args:
            weights: a tensor for each name of `trainable()`, of the same shape.

        Raises:
            FaultError: names or shapes differ. Nothing has been copied then.
        """
        parameters = self.trainable()
        if parameters.keys() != weights.keys():
            differing = sorted(parameters.keys() ^ weights.keys())[:3]
            raise FaultError(f"these weights belong to another policy: parameters {', '.join(differing)} differ")
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
                raise FaultError(f"these weights belong to another policy: parameter {name} is {shapes}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the policy to a folder; a transformers model in a form that transformers loads without this library.

        Args:
            folder: is made if it does not exist. `rlalign.policies.factory.load` reads it.
        """

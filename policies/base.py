"""What the learner and the samplers need of a policy: score given tokens, and decode new ones.

One layout everywhere: `tokens [N, L]` holds contexts right-padded from column 0, `lengths [N]` their true lengths, and
`action_mask [N, L]` is true where the policy chose the token. A quantity of the token at column t (its log-prob, the
value of the state before it) stands at column t. Pads are never looked at: masks and lengths come from the rollout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from rlalign.errors import FaultError, UserError
from rlalign.types import Sampling, Tokenizer

if TYPE_CHECKING:
    from rlalign.policies.sampling.fast_decoder import LeanModel


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a policy says of given tokens; everything is 0 outside the action mask.

    Attributes:
        logprobs: float32 [N, L], log pi(token_t | tokens_<t) under the sampling distribution.
        entropies: float32 [N, L] of the same distribution, when asked for.
        values: float32 [N, L], V(tokens_<t) at each action, when asked for.
        final_values: float32 [N], V of the whole context: bootstraps a truncated episode; when values were asked for.
    """

    logprobs: Tensor
    entropies: Tensor | None = None
    values: Tensor | None = None
    final_values: Tensor | None = None


class DecodeState(Protocol):
    """A cache of n contexts that can take one more token each. Made by `Policy.prefill`."""

    def select(self, rows: Tensor) -> None:
        """Keep the given rows (int64 indices, in order) and forget the others."""
        ...


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """What a sampler keeps of a context for the next turn: `tokens` were read, and stand in row `row` of a state.

    It is worth something only while the weights stay as they are.
    """

    tokens: Sequence[int]
    state: Any
    row: int


class Policy(nn.Module, ABC):
    """A language model that acts. Modules inside stay in eval mode (no dropout), in training too."""

    tokenizer: Tokenizer

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The format that log-probs are computed in: float32, or bfloat16, where sampler and scores differ by 2e-2."""
        return torch.float32

    @property
    def hidden_size(self) -> int:
        """Width d of the input embeddings."""
        return int(self.input_embeddings().shape[1])

    @property
    def packs(self) -> bool:
        """Rows are scored without padding, a beginning that they share once: the learner then keeps groups together."""
        return False

    def input_embeddings(self) -> Tensor:
        """Input embeddings [V, d] as they are now, without gradient. Raises UserError where there are none."""
        raise UserError(f"a {type(self).__name__} has no input embeddings")

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: dropout would make the scored distribution another one than the sampled."""
        super().train(False)
        return self

    # ---- scoring: the learner's side ----

    @abstractmethod
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
        """Score the masked tokens, with gradient to the trainable parameters (see `TokenScores`).

        The tensors given may lie on the CPU, whatever the policy's device, and are best there: what must be known of
        their shape is then known without waiting for the device.

        Raises UserError when values are asked of a policy that has none.
        """

    @abstractmethod
    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """float32 [N, L] log-probs under the frozen start of this run, without gradient.

        The start is a copy of the initial weights or the model with its adapter disabled, never a reload by name.
        """

    # ---- decoding: the samplers' side, always without gradient ----

    @abstractmethod
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once; return a state of Σ repeats rows (context i repeated repeats[i] times, in order)
        and the float32 logits [Σ repeats, V] of the next token."""

    @abstractmethod
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each of the n rows (int64 [n]); return the logits [n, V] of the next."""

    def extend_cache(
        self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]
    ) -> tuple[DecodeState, Tensor]:
        """As `prefill`, each context once, but what was kept of its beginning is not read again; of a lean policy."""
        raise NotImplementedError

    @property
    def lean(self) -> LeanModel | None:
        """What decodes, where that is a `LeanModel`: then what it read can be kept, and steps can be captured."""
        return None

    def begin_rollout(self) -> None:
        """Called before decoding whenever the weights may have changed: refresh whatever is derived from them."""
        return None

    # ---- parameters and files ----

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter for everything that the optimizer moves."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def value_trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters that serve the value alone: by convention those whose names begin with `value`."""
        return {n: p for n, p in self.trainable().items() if n.startswith("value")}

    def load_trainable(self, weights: Mapping[str, Tensor]) -> None:
        """Copy named tensors into the trainable parameters. Raises FaultError when names or shapes differ."""
        own = self.trainable()
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())[:3]
            raise FaultError(f"these weights belong to another policy: parameters {', '.join(odd)} differ")
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
                raise FaultError(f"these weights belong to another policy: parameter {name} is {shapes}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the policy; a transformers model as what transformers loads without this library."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Sampled turns of N rows, on the CPU.

    Attributes:
        tokens: int64 [N, T], right-padded with the tokenizer's pad id.
        lengths: int64 [N], sampled tokens per row, the stop token included when it was sampled.
        logprobs: float32 [N, T], log-prob of each sampled token under the sampling distribution, 0 past the length.
        cached: for the next turn, when asked for; see `Sampler.sample`.
    """

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    cached: Sequence[CachedPrefix | None] | None = None


class Sampler(Protocol):
    """Continues contexts with tokens drawn from a policy."""

    def sample(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        max_new: int | Sequence[int],
        stop_ids: frozenset[int],
        sampling: Sampling,
        generator: torch.Generator,
        greedy: bool = False,
        cached: Sequence[CachedPrefix | None] | None = None,
    ) -> Samples:
        """Draw until a stop id or max_new tokens a row. Equal neighbouring contexts (a group) are read once.

        Greedy takes the most probable token; its log-probs are still those of the sampling distribution. Episodes of
        several turns give what was `cached` of each context in the last turn, None at first; where a sampler can, it
        reads on from there instead of reading the whole context again.
        """
        ...

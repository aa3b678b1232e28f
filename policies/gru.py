"""A recurrent policy: embedding, GRU, linear. Small, from scratch, for any environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import DecodeState, Policy, TokenScores, check_contexts
from rlalign.policies.device import seeded
from rlalign.policies.options import PolicyOptions, check_no_adapter
from rlalign.policies.saved import read_card, tokenizer_of, write_card
from rlalign.policies.scoring.token_scores import plain_scorer, score_actions
from rlalign.policies.value_head import ValueHead, state_values
from rlalign.types import Sampling, Tokenizer

_WEIGHTS = "gru.safetensors"


class _Body(nn.Module):
    """tokens -> hidden states -> logits."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def read(self, tokens: Tensor, initial: Tensor | None = None) -> Tensor:
        """Return hidden states [N, S, d] after each of the tokens [N, S], from an initial state [N, d]; None is 0."""
        out: Tensor = self.gru(self.embedding(tokens), None if initial is None else initial[None])[0]
        return out

    def states(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [A, d] before each masked token, and [N, d] after the last token of each row."""
        hidden = self.read(tokens[:, : int(lengths.max())].to(self.embedding.weight.device))
        rows, columns = action_mask.nonzero(as_tuple=True)
        return hidden[rows, columns - 1], hidden[torch.arange(len(lengths)), lengths - 1]


class _GRUState:
    """The GRU's hidden states [n, d] after n contexts."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.hidden = self.hidden[rows]


class GRUPolicy(Policy):
    """A one-layer GRU language model in float32, with full fine-tuning, optional values and a frozen reference.

    A value model is a second embedding and GRU, initially copies of the policy's, with a head.

    Args:
        tokenizer: the meaning of the token ids; its vocabulary is the policy's.
        options: hidden_size, value, value_detached.
        seed: of the initial weights.
        device: device of the parameters.
        keep_reference: keep a frozen copy of the initial policy.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        options: PolicyOptions,
        seed: int = 0,
        device: torch.device | str = "cpu",
        keep_reference: bool = True,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options
        with seeded(seed):
            self.body = _Body(tokenizer.vocab_size, options.hidden_size)
        self.value_body: _Body | None = None
        if options.value == "model":
            self.value_body = copy.deepcopy(self.body)
            del self.value_body.head  # a value body predicts no token
        self.value_head: ValueHead | None = None
        if options.value != "none":
            self.value_head = ValueHead(options.hidden_size, detached=options.value_detached)
        self.to(device)
        self.eval()
        self.reference: _Body | None = None
        if keep_reference:
            self.reference = copy.deepcopy(self.body).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, except for the GRU: cuDNN differentiates it in training mode only. It has no dropout.

        Args:
            mode: not used.
        """
        super().train(mode)
        for body in (self.body, self.value_body):
            if body is not None:
                body.gru.training = True
        return self

    @property
    def has_values(self) -> bool:
        """True with a value head."""
        return self.value_head is not None

    @property
    def has_reference(self) -> bool:
        """True with a frozen copy."""
        return self.reference is not None

    def input_embeddings(self) -> Tensor:
        """Return the current input embeddings, [V, d], without gradient."""
        return self.body.embedding.weight.detach()

    # ---- scoring ----

    def _score(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, *, entropy: bool, values: bool
    ) -> TokenScores:
        head = self.value_head if values and self.value_body is None else None
        scores = self._score_with(self.body, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head)
        if values and self.value_body is not None and self.value_head is not None:
            states, final = self.value_body.states(tokens, lengths, action_mask)
            action_values, final_values = state_values(self.value_head, states, final, action_mask)
            scores = replace(scores, values=action_values, final_values=final_values)
        return scores

    def _reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        assert self.reference is not None
        return self._score_with(self.reference, tokens, lengths, action_mask, sampling).logprobs

    def _score_with(
        self,
        body: _Body,
        tokens: Tensor,
        lengths: Tensor,
        action_mask: Tensor,
        sampling: Sampling,
        *,
        entropy: bool = False,
        value_head: ValueHead | None = None,
    ) -> TokenScores:
        """Score tokens by a body, with values if a head is passed."""
        states, final = body.states(tokens, lengths, action_mask)
        return score_actions(
            states,
            final,
            tokens,
            action_mask,
            sampling,
            scorer=plain_scorer(body.head, self.tokenizer.vocab_size),
            entropy=entropy,
            value_head=value_head,
        )

    # ---- decoding ----

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it; see `Policy.prefill`.

        Args:
            contexts: token ids of each context, not empty.
            repeats: copies of each context, in order.

        Returns:
            The hidden states of Σ repeats rows, and the float32 logits [Σ repeats, V] of the next token.

        Raises:
            UserError: a context is empty.
        """
        check_contexts(contexts)
        rows = [torch.as_tensor(context, dtype=torch.int64) for context in contexts]
        lengths = torch.tensor([len(row) for row in rows])
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        # padding is on the right, so that the state after the last token has not read any
        hidden = self.body.read(padded)[torch.arange(len(rows)), lengths - 1]
        hidden = hidden.repeat_interleave(torch.as_tensor(repeats, device=self.device), dim=0)
        return _GRUState(hidden), self.body.head(hidden)

    @torch.no_grad()
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each of the n rows and return the float32 logits [n, V] of the next token.

        Args:
            state: hidden states of `prefill`, changed in place.
            tokens: int64 [n], on the policy's device.
        """
        assert isinstance(state, _GRUState)
        state.hidden = self.body.read(tokens[:, None], state.hidden)[:, 0]
        logits: Tensor = self.body.head(state.hidden)
        return logits

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write the weights (safetensors) and the card, from which `factory.load` builds the policy.

        Args:
            folder: is made if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights = {}
        for name, parameter in self.named_parameters():
            if not name.startswith("reference."):
                weights[name] = parameter.detach().cpu().contiguous()
        save_file(weights, folder / _WEIGHTS)
        write_card(folder, "gru", self.tokenizer, hidden_size=self.options.hidden_size, value=self.options.value)


def gru(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> GRUPolicy:
    """Build a GRU policy over the environment's tokenizer, with weights drawn from the seed.

    Raises:
        UserError: no tokenizer was passed, or the options request an adapter or a quantized base.
    """
    if tokenizer is None:
        raise UserError("policy 'gru': expected a tokenizer, got none; pass tokenizer=, such as the environment's")
    options = options or PolicyOptions()
    check_no_adapter("gru", options, kind="gru")
    return GRUPolicy(tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference)


def load_gru(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    device: torch.device | str = "cpu",
    keep_reference: bool = False,
) -> GRUPolicy:
    """Load a saved GRU policy, with the sizes of the folder.

    If the options request another kind of value than was saved, the value is initialized again.

    Raises:
        UserError: the tokenizer must be passed, or the options request an adapter or a quantized base.
    """
    check_no_adapter(str(folder), options, kind="gru")
    card = read_card(folder) or {}
    # older cards hold `value_head: true` instead of the kind of value
    saved_value = card.get("value", "head" if card.get("value_head") else "none")
    options = PolicyOptions(
        hidden_size=card["hidden_size"],
        value=options.value if options else saved_value,
        value_detached=options.value_detached if options else False,
    )
    policy = GRUPolicy(tokenizer_of(folder, tokenizer), options=options, device=device, keep_reference=False)
    weights = load_file(folder / _WEIGHTS, device=str(policy.device))
    if options.value != saved_value:
        # A head fits one body only, so the saved value is dropped. A value body is initialized from the loaded policy:
        # `value_body.X` takes the weights of `body.X`.
        weights = {name: weight for name, weight in weights.items() if not name.startswith("value_")}
        weights |= {f"value_{name}": weight for name, weight in weights.items()}
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    if keep_reference:
        policy.reference = copy.deepcopy(policy.body).requires_grad_(False)
    return policy

"""The recurrent policy that the idea started with: embedding, GRU, linear. Small, from scratch, on any environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import DecodeState, Policy, TokenScores
from rlalign.policies.options import PolicyOptions
from rlalign.policies.saved import card_of, save_card, saved_tokenizer
from rlalign.policies.scoring.token_scores import first_actions, plain_scorer, score_actions
from rlalign.policies.seeds import seeded
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

    def read(self, tokens: Tensor, memory: Tensor | None = None) -> Tensor:
        """Hidden states [N, S, d] after each of the tokens [N, S], going on from memory [N, d]."""
        out: Tensor = self.gru(self.embedding(tokens), None if memory is None else memory[None])[0]
        return out

    def states(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [A, d] before each masked token, and [N, d] after the last token of each row."""
        hidden = self.read(tokens[:, : int(lengths.max())].to(self.embedding.weight.device))
        rows, columns = action_mask.nonzero(as_tuple=True)
        return hidden[rows, columns - 1], hidden[torch.arange(len(lengths)), lengths - 1]


class _Memory:
    """n contexts, each summed up in the GRU's hidden state [n, d]."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.hidden = self.hidden[rows]


class GRUPolicy(Policy):
    """One-layer GRU language model in float32, trained in full, with optional values and a frozen reference.

    A value model is a second embedding and GRU, which start as copies of the policy's, and a head.

    Args:
        tokenizer: what its ids mean; its vocabulary is the policy's.
        options: hidden_size, value, value_detached.
        seed: of the initial weights.
        device: where to put it.
        keep_reference: keep a frozen copy of the start.
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
        self.tokenizer, self.options = tokenizer, options
        with seeded(seed):
            self.body = _Body(tokenizer.vocab_size, options.hidden_size)
        self.value_body: _Body | None = None
        if options.value == "model":
            self.value_body = copy.deepcopy(self.body)
            del self.value_body.head  # it predicts no token
        self.value_head: ValueHead | None = None
        if options.value != "none":
            self.value_head = ValueHead(options.hidden_size, detached=options.value_detached)
        self.to(device)
        self.eval()
        self.reference: _Body | None = None
        if keep_reference:
            self.reference = copy.deepcopy(self.body).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode but for the GRU, which cuDNN differentiates in training mode only; it has no dropout."""
        super().train(mode)
        for body in (self.body, self.value_body):
            if body is not None:
                body.gru.training = True
        return self

    def input_embeddings(self) -> Tensor:
        """Input embeddings [V, d] as they are now, without gradient."""
        return self.body.embedding.weight.detach()

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
        """Score the masked tokens with gradient; see `Policy.score`."""
        if values and self.value_head is None:
            raise UserError("values were asked of a policy without any: set --objective.value.kind head or model")
        head = self.value_head if values and self.value_body is None else None
        scores = self._score(self.body, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head)
        if values and self.value_body is not None and self.value_head is not None:
            states, final = self.value_body.states(tokens, lengths, action_mask)
            found, last = state_values(self.value_head, states, final, action_mask)
            scores = replace(scores, values=found, final_values=last)
        return scores

    @torch.no_grad()
    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs under the frozen copy of the start. UserError when none was kept."""
        if self.reference is None:
            raise UserError("no reference was kept: build the policy with keep_reference=True")
        return self._score(self.reference, tokens, lengths, action_mask, sampling).logprobs

    def _score(
        self, body: _Body, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, **asked: Any
    ) -> TokenScores:
        first_actions(action_mask, lengths)  # refuses an action without context
        states, final = body.states(tokens, lengths, action_mask)
        return score_actions(
            states,
            final,
            tokens,
            action_mask,
            sampling,
            scorer=plain_scorer(body.head, self.tokenizer.vocab_size),
            entropy=asked.get("entropy", False),
            value_head=asked.get("value_head"),
        )

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it; see `Policy.prefill`."""
        rows = [torch.as_tensor(c, dtype=torch.int64) for c in contexts]
        lengths = torch.tensor([len(row) for row in rows])
        if int(lengths.min()) == 0:
            raise UserError("a context is empty, and there is nothing to predict a token from: start it with BOS")
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        hidden = self.body.read(padded)[torch.arange(len(rows)), lengths - 1]
        hidden = hidden.repeat_interleave(torch.as_tensor(repeats, device=self.device), dim=0)
        return _Memory(hidden), self.body.head(hidden)

    @torch.no_grad()
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each row; see `Policy.decode`."""
        assert isinstance(state, _Memory)
        state.hidden = self.body.read(tokens[:, None], state.hidden)[:, 0]
        logits: Tensor = self.body.head(state.hidden)
        return logits

    def save_pretrained(self, folder: Path) -> None:
        """Write weights (safetensors) and what `rlalign.policies.load` needs to build the policy again."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = {n: p.detach().cpu().contiguous() for n, p in self.named_parameters() if not n.startswith("reference.")}
        save_file(kept, folder / _WEIGHTS)
        sizes = {"hidden_size": self.options.hidden_size, "value": self.options.value}
        save_card(folder, "gru", self.tokenizer, **sizes)


def gru(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> GRUPolicy:
    """A GRU policy from scratch over the environment's tokenizer, its weights drawn from the seed."""
    if tokenizer is None:
        raise UserError("policy 'gru' starts from scratch and needs a tokenizer: give the environment's")
    options = options or PolicyOptions()
    if options.lora_r:
        raise UserError(f"a gru is trained in full: leave lora_r out (it is {options.lora_r})")
    return GRUPolicy(tokenizer, options=options, seed=seed, device=device, keep_reference=keep_reference)


def load_gru(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    device: torch.device | str = "cpu",
    keep_reference: bool = False,
) -> GRUPolicy:
    """A saved GRU policy. Its sizes come from the folder; where the options ask for another kind of value than was
    saved, it starts afresh."""
    card = card_of(folder) or {}
    speaks = saved_tokenizer(folder) or tokenizer
    if speaks is None:
        raise UserError(f"'{folder}' spoke a tokenizer that is not rlalign's own: give it")
    had = card.get("value", "head" if card.get("value_head") else "none")  # folders of old say only whether
    merged = PolicyOptions(
        hidden_size=card["hidden_size"],
        value=options.value if options else had,
        value_detached=options.value_detached if options else False,
    )
    policy = GRUPolicy(speaks, options=merged, device=device, keep_reference=False)
    weights = load_file(folder / _WEIGHTS, device=str(policy.device))
    if merged.value != had:  # a head reads one body only; a new value model starts as the policy that was loaded
        weights = {name: weight for name, weight in weights.items() if not name.startswith("value_")}
        weights |= {f"value_{name}": weight for name, weight in weights.items()}
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    if keep_reference:
        policy.reference = copy.deepcopy(policy.body).requires_grad_(False)
    return policy

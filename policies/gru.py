"""The recurrent policy that the idea started with: embedding, GRU, linear. Small, from scratch, on any environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import DecodeState, Policy, TokenScores
from rlalign.policies.folder import card_of, save_card, saved_tokenizer
from rlalign.policies.options import PolicyOptions
from rlalign.policies.scoring import first_actions, score_actions
from rlalign.policies.seeds import seeded
from rlalign.policies.value_head import ValueHead
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


class _Memory:
    """n contexts, each summed up in the GRU's hidden state [n, d]."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.hidden = self.hidden[rows]


class GRUPolicy(Policy):
    """One-layer GRU language model in float32, trained in full, with an optional value head and a frozen reference.

    Args:
        tokenizer: what its ids mean; its vocabulary is the policy's.
        options: hidden_size, value_head, value_detached.
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
        self.value_head: ValueHead | None = None
        if options.value_head:
            self.value_head = ValueHead(options.hidden_size, detached=options.value_detached)
        self.to(device)
        self.eval()
        self.reference: _Body | None = None
        if keep_reference:
            self.reference = copy.deepcopy(self.body).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode but for the GRU, which cuDNN differentiates in training mode only; it has no dropout."""
        super().train(mode)
        self.body.gru.training = True
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
            raise UserError("values were asked of a policy without a value head: set --model.value-head")
        head = self.value_head if values else None
        return self._score(self.body, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head)

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
        return score_actions(
            body.read(tokens[:, : int(lengths.max())]),
            torch.zeros_like(lengths),
            tokens,
            lengths,
            action_mask,
            sampling,
            head=body.head,
            vocab_size=self.tokenizer.vocab_size,
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
        sizes = {"hidden_size": self.options.hidden_size, "value_head": self.options.value_head}
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
    """A saved GRU policy. Its sizes come from the folder; options may add a value head that it did not have."""
    card = card_of(folder) or {}
    speaks = saved_tokenizer(folder) or tokenizer
    if speaks is None:
        raise UserError(f"'{folder}' spoke a tokenizer that is not rlalign's own: give it")
    wants_values = options.value_head if options else card["value_head"]
    merged = PolicyOptions(
        hidden_size=card["hidden_size"],
        value_head=wants_values,
        value_detached=options.value_detached if options else False,
    )
    policy = GRUPolicy(speaks, options=merged, device=device, keep_reference=False)
    weights = load_file(folder / _WEIGHTS, device=str(policy.device))
    own = dict(policy.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if name in own:
                own[name].copy_(weight)
    if keep_reference:
        policy.reference = copy.deepcopy(policy.body).requires_grad_(False)
    return policy

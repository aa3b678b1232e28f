"""A softmax table: one row of float64 logits for each context, small enough to be known exactly.

The policy of the oracle and of end-to-end statistical tests: the real rollout, samplers and learner run on it, and its
expected gradient can be computed by enumeration. A context is told by its last `horizon` tokens: a table over whole
contexts where they are no longer than that, and an n-gram model where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import Policy, TokenScores
from rlalign.policies.logits import entropy as entropy_of
from rlalign.policies.logits import token_logprobs
from rlalign.policies.options import PolicyOptions
from rlalign.policies.saved import card_of, save_card, saved_tokenizer
from rlalign.types import Sampling, Tokenizer

_WEIGHTS = "table.safetensors"
MAX_ENTRIES = 4_000_000  # 32 MB of float64


class TabularPolicy(Policy):
    """pi(a | s) = softmax(table[s])_a; `table` is float64 [rows, V], `reference` its start.

    Args:
        tokenizer: its vocab_size V is the table's width.
        horizon: the last tokens of a context that tell its row. Rows: Σ_(n<=horizon) V^n.
        seed: of the initial logits.
        scale: standard deviation of the initial logits; 0 starts uniform.
        value_head: add a table of values.
    """

    reference: Tensor
    offsets: Tensor

    def __init__(
        self, tokenizer: Tokenizer, horizon: int, *, seed: int = 0, scale: float = 0.0, value_head: bool = False
    ) -> None:
        super().__init__()
        self.tokenizer, self.horizon = tokenizer, horizon
        v = tokenizer.vocab_size
        rows = sum(v**n for n in range(horizon + 1))
        if rows * v > MAX_ENTRIES:
            raise UserError(
                f"a table of {v} tokens and horizon {horizon} has {rows * v:,} entries, above {MAX_ENTRIES:,}: "
                "use a shorter horizon, or --policy gru"
            )
        generator = torch.Generator().manual_seed(seed)
        start = scale * torch.randn(rows, v, dtype=torch.float64, generator=generator)
        self.table = nn.Parameter(start)
        self.values = nn.Parameter(torch.zeros(rows, dtype=torch.float64)) if value_head else None
        self.register_buffer("reference", start.clone())
        starts = [sum(v**n for n in range(k)) for k in range(horizon + 1)]
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)

    # ---- scoring ----

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
        """Log-probs of the masked tokens, and entropies and values when asked for; [N, L]."""
        if values and self.values is None:
            raise UserError("this tabular policy has no value table: set --objective.value.kind head")
        tokens, lengths, action_mask = (t.to(self.device) for t in (tokens, lengths, action_mask))
        rows = self.rows(tokens)
        logprobs, z = token_logprobs(self.table[rows[:, :-1][action_mask]], tokens[action_mask], sampling)

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(tokens.shape).masked_scatter(action_mask, x)

        scored = TokenScores(spread(logprobs), entropies=spread(entropy_of(z)) if entropy else None)
        if not values or self.values is None:
            return scored
        last = rows.gather(1, lengths[:, None]).squeeze(1)
        worth = self.values.float()
        return replace(scored, values=spread(worth[rows[:, :-1][action_mask]]), final_values=worth[last])

    @torch.no_grad()
    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs under the table as it was at the start; [N, L]."""
        tokens, action_mask = tokens.to(self.device), action_mask.to(self.device)
        logits = self.reference[self.rows(tokens)[:, :-1][action_mask]]
        logprobs, _ = token_logprobs(logits, tokens[action_mask], sampling)
        return logprobs.new_zeros(tokens.shape).masked_scatter(action_mask, logprobs)

    def rows(self, tokens: Tensor) -> Tensor:
        """int64 [N, L+1]: at column t the table's row for the context tokens[:, :t]."""
        n, width = tokens.shape
        at = torch.zeros(n, width + 1, dtype=torch.int64, device=tokens.device)
        for t in range(width):
            at[:, t + 1] = self._next(at[:, t], t, tokens[:, t])
        return at

    def _next(self, row: Tensor, length: int | Tensor, token: Tensor) -> Tensor:
        """The row of a context of `length` tokens in `row` [n] after one more token [n]."""
        v, h = self.tokenizer.vocab_size, self.horizon
        length = torch.as_tensor(length, device=row.device)
        before, after = self.offsets[length.clamp(max=h)], self.offsets[(length + 1).clamp(max=h)]
        following: Tensor = after + ((row - before) * v + token.clamp(0, v - 1)) % v**h
        return following

    # ---- decoding ----

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[_Place, Tensor]:
        """See `Policy.prefill`."""
        last = [self.rows(torch.tensor([list(c)], dtype=torch.int64, device=self.device))[0, -1] for c in contexts]
        times = torch.tensor(list(repeats), device=self.device)
        lengths = torch.tensor([len(c) for c in contexts], device=self.device)
        state = _Place(torch.stack(last).repeat_interleave(times), lengths.repeat_interleave(times))
        return state, self.table[state.row].float()

    @torch.no_grad()
    def decode(self, state: _Place, tokens: Tensor) -> Tensor:  # type: ignore[override]  # the state is this policy's own
        """See `Policy.decode`."""
        state.row, state.length = self._next(state.row, state.length, tokens), state.length + 1
        return self.table[state.row].float()

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write `table.safetensors` and the policy's card."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.named_parameters()}
        save_file(tensors, str(folder / _WEIGHTS))
        save_card(folder, "tabular", self.tokenizer, horizon=self.horizon, values=self.values is not None)


def load_tabular(folder: Path, tokenizer: Tokenizer | None = None, device: torch.device | str = "cpu") -> TabularPolicy:
    """A saved tabular policy; what was loaded is its reference. UserError where its tokenizer must be given."""
    card = card_of(folder) or {}
    speaks = saved_tokenizer(folder) or tokenizer
    if speaks is None:
        raise UserError(f"'{folder}' spoke a tokenizer that is not rlalign's own: give it")
    policy = TabularPolicy(speaks, card["horizon"], value_head=card["values"])
    policy.load_trainable(load_file(folder / _WEIGHTS))
    policy.reference.copy_(policy.table.detach())
    return policy.to(device)


@dataclass
class _Place:
    """Where n contexts stand: the table's row and the length of each, int64 [n]."""

    row: Tensor
    length: Tensor

    def select(self, rows: Tensor) -> None:
        """See `DecodeState.select`."""
        self.row, self.length = self.row[rows], self.length[rows]


def tabular(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> TabularPolicy:
    """A table of logits, uniform at first, over as many tokens as keep it small: for tasks of a few short answers.

    The reference is kept always: it is as small as the table.
    """
    if tokenizer is None:
        raise UserError("policy tabular has no tokenizer of its own: it takes the environment's")
    v, horizon = tokenizer.vocab_size, 0
    while sum(v**n for n in range(horizon + 2)) * v <= MAX_ENTRIES:
        horizon += 1
    wants = options is not None and options.value != "none"
    return TabularPolicy(tokenizer, horizon, seed=seed, value_head=wants).to(device)

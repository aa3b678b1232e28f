"""A softmax table: one row of float64 logits per context, small enough for exact enumeration.

The policy of the oracle and of end-to-end statistical tests: the actual rollout, samplers and learner run on it, and
its expected gradient can be computed by enumeration. The last `horizon` tokens of a context determine its row. The
table is exact for contexts up to that length and an n-gram model for longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import Policy, TokenScores
from rlalign.policies.logits import entropy as entropy_of
from rlalign.policies.logits import token_logprobs
from rlalign.policies.options import PolicyOptions, check_no_adapter
from rlalign.policies.saved import read_card, tokenizer_of, write_card
from rlalign.types import Sampling, Tokenizer

_WEIGHTS = "table.safetensors"
MAX_ENTRIES = 4_000_000  # 32 MB of float64


class TabularPolicy(Policy):
    """A softmax table: pi(a | s) = softmax(table[s])_a, exact for contexts of up to `horizon` tokens.

    The last `horizon` tokens of a context determine its row s, so that the policy is an n-gram model for longer
    contexts. The empty context has a row.

    Args:
        tokenizer: its vocab_size V is the width of the table.
        horizon: number of last tokens of a context that determine its row. Rows: Σ_(n<=horizon) V^n.
        seed: of the initial logits.
        scale: standard deviation of the initial logits; 0 is the uniform distribution.
        value_head: add a table of values.

    Attributes:
        table: float64 [rows, V].
        reference: float64 [rows, V], the initial table.
        offsets: int64 [horizon + 1], the first row of the contexts of each length.

    Raises:
        UserError: the table would have more than 4,000,000 entries.

    Example:
        >>> from rlalign.tokenizers import CharTokenizer
        >>> policy = TabularPolicy(CharTokenizer("ab"), horizon=2)  # V = 4: PAD, EOS, a, b
        >>> policy.table.shape
        torch.Size([21, 4])
        >>> policy.rows(torch.tensor([[2, 3]]))  # of the contexts "", "a", "ab"
        tensor([[ 0,  3, 16]])
    """

    reference: Tensor
    offsets: Tensor
    requires_context: ClassVar[bool] = False  # the empty context has a row

    def __init__(
        self, tokenizer: Tokenizer, horizon: int, *, seed: int = 0, scale: float = 0.0, value_head: bool = False
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.horizon = horizon
        v = tokenizer.vocab_size
        rows = sum(v**n for n in range(horizon + 1))
        if rows * v > MAX_ENTRIES:
            raise UserError(
                f"expected a table of at most {MAX_ENTRIES:,} entries, got {rows * v:,} for {v} tokens and horizon "
                f"{horizon}; use a shorter horizon, or --policy gru"
            )
        generator = torch.Generator().manual_seed(seed)
        initial = scale * torch.randn(rows, v, dtype=torch.float64, generator=generator)
        self.table = nn.Parameter(initial)
        self.values = nn.Parameter(torch.zeros(rows, dtype=torch.float64)) if value_head else None
        self.register_buffer("reference", initial.clone())
        offsets = [sum(v**n for n in range(k)) for k in range(horizon + 1)]
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    @property
    def has_values(self) -> bool:
        """True with a table of values."""
        return self.values is not None

    # ---- scoring ----

    def _score(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, *, entropy: bool, values: bool
    ) -> TokenScores:
        tokens, lengths, action_mask = (t.to(self.device) for t in (tokens, lengths, action_mask))
        rows = self.rows(tokens)
        state_rows = rows[:, :-1][action_mask]  # the context before each action
        logprobs, z = token_logprobs(self.table[state_rows], tokens[action_mask], sampling)

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(tokens.shape).masked_scatter(action_mask, x)

        scores = TokenScores(spread(logprobs), entropies=spread(entropy_of(z)) if entropy else None)
        if not values or self.values is None:
            return scores
        final_rows = rows.gather(1, lengths[:, None]).squeeze(1)
        row_values = self.values.float()
        return replace(scores, values=spread(row_values[state_rows]), final_values=row_values[final_rows])

    def _reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        tokens, action_mask = tokens.to(self.device), action_mask.to(self.device)
        logits = self.reference[self.rows(tokens)[:, :-1][action_mask]]
        logprobs, _ = token_logprobs(logits, tokens[action_mask], sampling)
        return logprobs.new_zeros(tokens.shape).masked_scatter(action_mask, logprobs)

    def rows(self, tokens: Tensor) -> Tensor:
        """Return the table's row of each prefix, int64 [N, L+1]: at column t that of the context tokens[:, :t].

        Args:
            tokens: int64 [N, L].
        """
        n, width = tokens.shape
        rows = torch.zeros(n, width + 1, dtype=torch.int64, device=tokens.device)
        for t in range(width):
            rows[:, t + 1] = self._next_row(rows[:, t], t, tokens[:, t])
        return rows

    def _next_row(self, row: Tensor, length: int | Tensor, token: Tensor) -> Tensor:
        """Return the row of a context of `length` tokens, in `row` [n], after one more token [n].

        Within the contexts of one length, the tokens are the digits of the index in base V. Appending a token shifts
        them, and the modulo drops the oldest one beyond the horizon.
        """
        v, h = self.tokenizer.vocab_size, self.horizon
        length = torch.as_tensor(length, device=row.device)
        before, after = self.offsets[length.clamp(max=h)], self.offsets[(length + 1).clamp(max=h)]
        # padding may hold any id, hence the clamp
        following: Tensor = after + ((row - before) * v + token.clamp(0, v - 1)) % v**h
        return following

    # ---- decoding ----

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[_RowState, Tensor]:
        """Look up the row of each context and repeat it; see `Policy.prefill`.

        Args:
            contexts: token ids of each context; may be empty.
            repeats: copies of each context, in order.

        Returns:
            The table's rows of Σ repeats rows, and the float32 logits [Σ repeats, V] of the next token.
        """
        last = [self.rows(torch.tensor([list(c)], dtype=torch.int64, device=self.device))[0, -1] for c in contexts]
        times = torch.tensor(list(repeats), device=self.device)
        lengths = torch.tensor([len(c) for c in contexts], device=self.device)
        state = _RowState(torch.stack(last).repeat_interleave(times), lengths.repeat_interleave(times))
        return state, self.table[state.row].float()

    @torch.no_grad()
    def decode(self, state: _RowState, tokens: Tensor) -> Tensor:  # type: ignore[override]  # the state is this policy's own
        """Append one token to each of the n rows and return the float32 logits [n, V] of the next token.

        Args:
            state: rows of `prefill`, changed in place.
            tokens: int64 [n], on the policy's device.
        """
        state.row = self._next_row(state.row, state.length, tokens)
        state.length = state.length + 1
        return self.table[state.row].float()

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write `table.safetensors` and the policy's card.

        Args:
            folder: is made if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.named_parameters()}
        save_file(tensors, str(folder / _WEIGHTS))
        write_card(folder, "tabular", self.tokenizer, horizon=self.horizon, values=self.values is not None)


@dataclass
class _RowState:
    """The table's row and the length of n contexts, int64 [n] each."""

    row: Tensor
    length: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        self.row = self.row[rows]
        self.length = self.length[rows]


def load_tabular(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    device: torch.device | str = "cpu",
) -> TabularPolicy:
    """Load a saved tabular policy, which is its own reference. Its sizes are those of the folder.

    Raises:
        UserError: the tokenizer must be passed, or the options request an adapter or a quantized base.
    """
    check_no_adapter(str(folder), options, kind="tabular")
    card = read_card(folder) or {}
    policy = TabularPolicy(tokenizer_of(folder, tokenizer), card["horizon"], value_head=card["values"])
    policy.load_trainable(load_file(folder / _WEIGHTS))
    policy.reference.copy_(policy.table.detach())
    return policy.to(device)


def tabular(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> TabularPolicy:
    """Build a table of logits, uniform at first, with the longest horizon within MAX_ENTRIES.

    For tasks with a few short answers. The reference is kept always: it is as small as the table.

    Raises:
        UserError: no tokenizer was passed, or the options request an adapter or a quantized base.
    """
    check_no_adapter("tabular", options, kind="tabular")
    if tokenizer is None:
        raise UserError("policy 'tabular': expected a tokenizer, got none; pass tokenizer=, such as the environment's")
    v = tokenizer.vocab_size
    horizon = 0
    while sum(v**n for n in range(horizon + 2)) * v <= MAX_ENTRIES:
        horizon += 1
    value_head = options is not None and options.value != "none"
    return TabularPolicy(tokenizer, horizon, seed=seed, value_head=value_head).to(device)

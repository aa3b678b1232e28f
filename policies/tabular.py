"""A softmax table: one row of float64 logits for each context, small enough to be known exactly.

The policy of the oracle and of end-to-end statistical tests: the real rollout, samplers and learner run on it, and its
expected gradient can be computed by enumeration. A context is told by its last `horizon` tokens: a table over whole
contexts where they are no longer than that, and an n-gram model where they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import Policy, TokenScores
from rlalign.policies.options import PolicyOptions
from rlalign.policies.processing import entropy as entropy_of
from rlalign.policies.processing import token_logprobs
from rlalign.types import Sampling, Tokenizer

MAX_ENTRIES = 4_000_000


class TabularPolicy(Policy):
    """pi(a | s) = softmax(table[s])_a.

    Args:
        tokenizer: its vocab_size V is the table's width.
        horizon: the last tokens of a context that tell its row. Rows: Σ_(n<=horizon) V^n.
        seed: of the initial logits.
        scale: standard deviation of the initial logits; 0 starts uniform.
        value_head: add a table of values.
    """

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
            raise UserError("this tabular policy has no value table: set --model.value-head")
        rows = self.rows(tokens)
        logprobs, z = token_logprobs(self.table[rows[:, :-1][action_mask]], tokens[action_mask], sampling)

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(tokens.shape).masked_scatter(action_mask, x)

        scored = TokenScores(spread(logprobs))
        if entropy:
            scored = _replace(scored, entropies=spread(entropy_of(z)))
        if values and self.values is not None:
            last = rows.gather(1, lengths[:, None]).squeeze(1)
            scored = _replace(
                scored,
                values=spread(self.values[rows[:, :-1][action_mask]].float()),
                final_values=self.values[last].float(),
            )
        return scored

    @torch.no_grad()
    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs under the table as it was at the start; [N, L]."""
        assert isinstance(self.reference, Tensor)
        logits = self.reference[self.rows(tokens)[:, :-1][action_mask]]
        logprobs, _ = token_logprobs(logits, tokens[action_mask], sampling)
        return logprobs.new_zeros(tokens.shape).masked_scatter(action_mask, logprobs)

    def rows(self, tokens: Tensor) -> Tensor:
        """int64 [N, L+1]: at column t the table's row for the context tokens[:, :t]."""
        v, h = self.tokenizer.vocab_size, self.horizon
        n, width = tokens.shape
        offsets = torch.tensor([sum(v**k for k in range(j)) for j in range(h + 1)], device=tokens.device)
        out = torch.zeros(n, width + 1, dtype=torch.int64, device=tokens.device)
        code = torch.zeros(n, dtype=torch.int64, device=tokens.device)
        for t in range(width):
            code = (code * v + tokens[:, t].clamp(0, v - 1)) % v**h
            out[:, t + 1] = offsets[min(t + 1, h)] + code
        return out

    # ---- decoding ----

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[_Tail, Tensor]:
        """See `Policy.prefill`."""
        tails = [list(c)[-self.horizon :] if self.horizon else [] for c in contexts]
        state = _Tail([tail for tail, n in zip(tails, repeats, strict=True) for _ in range(n)])
        return state, self._logits(state)

    @torch.no_grad()
    def decode(self, state: _Tail, tokens: Tensor) -> Tensor:  # type: ignore[override]  # the state is this policy's own
        """See `Policy.decode`."""
        state.tails = [
            ([*tail, int(token)])[-self.horizon :] if self.horizon else []
            for tail, token in zip(state.tails, tokens.tolist(), strict=True)
        ]
        return self._logits(state)

    def _logits(self, state: _Tail) -> Tensor:
        rows = [int(self.rows(torch.tensor([tail]))[0, -1]) if tail else 0 for tail in state.tails]
        return self.table[torch.tensor(rows, device=self.device)].float()

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write `table.safetensors` and `config.json` (vocabulary and horizon)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.named_parameters()}
        save_file(tensors, str(folder / "table.safetensors"))
        about = {"policy": "tabular", "vocab_size": self.tokenizer.vocab_size, "horizon": self.horizon}
        (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")


class _Tail:
    """The last tokens of n contexts."""

    def __init__(self, tails: list[list[int]]) -> None:
        self.tails = tails

    def select(self, rows: Tensor) -> None:
        """See `DecodeState.select`."""
        self.tails = [self.tails[i] for i in rows.tolist()]


def tabular(
    tokenizer: Tokenizer | None = None,
    options: PolicyOptions | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    keep_reference: bool = True,
) -> TabularPolicy:
    """The registry's `tabular`: uniform at first, with the longest horizon whose table is small enough.

    The reference is kept always: it is as small as the table.
    """
    if tokenizer is None:
        raise UserError("policy tabular has no tokenizer of its own: it takes the environment's")
    v, horizon = tokenizer.vocab_size, 0
    while sum(v**n for n in range(horizon + 2)) * v <= MAX_ENTRIES:
        horizon += 1
    wants = options is not None and options.value_head
    return TabularPolicy(tokenizer, horizon, seed=seed, value_head=wants).to(device)


def _replace(scores: TokenScores, **changes: Tensor) -> TokenScores:
    from dataclasses import replace

    return replace(scores, **changes)

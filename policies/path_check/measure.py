"""Log-probs of rows by a path and by plain forward passes, and their difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.policies.path_check.rows import ProofRows
from rlalign.policies.rounding import SMALL_CHANGE, rounded_embeddings
from rlalign.policies.sampling.fast_decoder import FastDecoder
from rlalign.policies.sampling.library_decoder import LibraryDecoder
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.packing import to_device
from rlalign.types import Sampling

_UNSTABLE = 20
"""Multiple of the usual change of log-probs from which on a position is unstable."""
_FACTORS = ("lora_magnitude_vector", "ia3_l")
_CHANGED = ("lora_B", "lora_embedding_B", "lora_E", *_FACTORS)
"""Parts of the names of parameters by which a new adapter has no effect."""
_LEAST_STABLE = 0.8
"""Share of positions that must be stable."""

Table = dict[tuple[int, int], Tensor]
"""(row, column) -> float32 log-probs [V] of the token at that column."""


def plain_logprobs(lm: Any, rows: ProofRows, switch: int | None, indices: Iterable[int] | None = None) -> Table:
    """Return the log-probs of each token after the prompts, by a plain forward pass of each row alone.

    A row beyond the switch of `longrope` needs two passes: tokens up to it are predicted from a shorter context.

    Args:
        lm: the complete model, a peft model if its adapter is not in the layers.
        rows: the rows.
        switch: as `Backbone.switch`.
        indices: the rows to read; all by default.
    """
    table: Table = {}
    for index in range(len(rows.tokens)) if indices is None else indices:
        row = rows.row(index)
        ends = [len(row)] if switch is None or len(row) <= switch else [switch, len(row)]
        done = 0
        for end in ends:
            logprobs = _model_logprobs(lm, row[:end])
            for column in range(max(int(rows.prompts[index]), done + 1), min(end, len(row) - 1) + 1):
                table[index, column] = logprobs[column - 1]
            done = end
    return table


def change_of_earlier_logprobs(lm: Any, rows: ProofRows, expected: Table) -> float:
    """Return how much a change of the last token of the first row, to another one of it, changes those before it."""
    row = rows.row(0)
    changed = [*row[:-1], next(token for token in row if token != row[-1])]
    logprobs = _model_logprobs(lm, changed)
    return largest_difference(expected, {(0, c): logprobs[c - 1] for c in range(int(rows.prompts[0]), len(row))})


def single_row_logprobs(backbone: Backbone, rows: ProofRows) -> Table:
    """Return the log-probs of the first row, read alone, by body and head."""
    row = rows.row(0)
    hidden, _ = backbone.run(torch.tensor([row], device=backbone.device))
    logprobs = backbone.head(hidden[0]).float().log_softmax(-1)
    return {(0, c): logprobs[c - 1] for c in range(int(rows.prompts[0]), len(row))}


def scored_logprobs(backbone: Backbone, rows: ProofRows) -> Table:
    """Return the same as `plain_logprobs` from the hidden states that scores are computed from."""
    mask = rows.action_mask
    states, _ = backbone.states(rows.tokens, rows.lengths, mask, with_final=False)
    logprobs = backbone.head(states).float().log_softmax(-1)
    return {
        (row, column): logprobs[i]
        for i, (row, column) in enumerate(zip(*(t.tolist() for t in mask.nonzero(as_tuple=True)), strict=True))
    }


def target_logprobs(backbone: Backbone, rows: ProofRows) -> Tensor:
    """Return the log-probs [A] of the tokens after the prompts as the learner computes them, with gradient."""
    mask = rows.action_mask
    states, _ = backbone.states(rows.tokens, rows.lengths, mask, with_final=False)
    return backbone.head.score(states, to_device(rows.tokens[mask], states.device), Sampling(), False)[0]


@torch.no_grad()
def decoded_logprobs(decoder: LibraryDecoder | FastDecoder, rows: ProofRows, device: torch.device) -> Table:
    """Return the same as `plain_logprobs` by decoding: prompts are read, then a token at a time is appended.

    Rows that end are removed, and equal prompts of neighbors are read once, as in a rollout.
    """
    prompts = [row[:n] for row, n in zip(map(rows.row, range(len(rows.tokens))), rows.prompts.tolist(), strict=True)]
    contexts: list[list[int]] = []
    repeats: list[int] = []
    for prompt in prompts:
        if contexts and contexts[-1] == prompt:
            repeats[-1] += 1
        else:
            contexts.append(prompt)
            repeats.append(1)
    owner = torch.arange(len(contexts)).repeat_interleave(torch.tensor(repeats)).to(device)
    state: Any
    if isinstance(decoder, FastDecoder):
        hidden, state = decoder.read(contexts, device)
        state.select(owner)
    else:
        hidden, state = decoder.read(contexts, repeats)
    logprobs = decoder.head(hidden).float().log_softmax(-1)[owner]
    active = list(range(len(prompts)))
    table: Table = {}
    column = 0  # behind the prompt
    while True:
        table.update({(row, len(prompts[row]) + column): logprobs[i] for i, row in enumerate(active)})
        remaining = [i for i, row in enumerate(active) if len(prompts[row]) + column + 1 < int(rows.lengths[row])]
        if not remaining:
            return table
        if len(remaining) < len(active):
            state.select(torch.tensor(remaining, device=device))
            active = [active[i] for i in remaining]
        drawn = torch.tensor([int(rows.tokens[row, len(prompts[row]) + column]) for row in active], device=device)
        logprobs = decoder.head(decoder.advance(state, drawn)).float().log_softmax(-1)
        column += 1


def largest_difference(expected: Table, table: Table) -> float:
    """Return the largest difference of a log-prob, divided by 1 + |log-prob|, over the positions that are expected.

    NaN counts as infinite.
    """
    worst = 0.0
    for key, logprobs in table.items():
        if key not in expected:
            continue
        difference = ((logprobs - expected[key]).abs() / (1 + expected[key].abs())).max()
        worst = max(worst, float(difference.nan_to_num(nan=torch.inf)))
    return worst


def mean_difference(expected: Table, table: Table, rows: ProofRows) -> float:
    """Return the mean difference of the log-probs of the rows' tokens, in nats; NaN counts as infinite."""
    differences = [
        (logprobs - expected[key])[rows.tokens[key]].abs().nan_to_num(nan=torch.inf) for key, logprobs in table.items()
    ]
    return float(torch.stack(differences).mean())


def stable_positions(lm: Any, rows: ProofRows, switch: int | None, expected: Table, plain: Any = None) -> Table:
    """Return the log-probs of the positions that float32 determines.

    Other positions are found on plain rows alone (see `rlalign.policies.rounding`), so that no path decides which
    positions it is compared at.
    """
    with rounded_embeddings(lm):
        changed = plain_logprobs(plain or lm, rows, switch)
    sizes = {key: largest_difference({key: expected[key]}, {key: changed[key]}) for key in expected}
    usual = sorted(sizes.values())[len(sizes) // 2]
    stable = {key: expected[key] for key, size in sizes.items() if size <= _UNSTABLE * max(usual, SMALL_CHANGE)}
    # a model that is unstable at many positions is compared at all of them
    return stable if len(stable) >= _LEAST_STABLE * len(expected) else expected


@contextmanager
def in_float32(lm: nn.Module) -> Iterator[None]:
    """Convert the weights to float32 within the block; afterwards they are the tensors of before."""
    originals = [(tensor, tensor.data) for tensor in (*lm.parameters(), *lm.buffers())]
    try:
        for tensor, data in originals:
            if data.is_floating_point() and data.dtype != torch.float32:
                tensor.data = data.float()
        yield
    finally:
        for tensor, data in originals:
            tensor.data = data


@contextmanager
def with_random_adapters(model: nn.Module) -> Iterator[None]:
    """Change the parameters of adapters that have no effect at first, by random numbers, within the block.

    The second matrices of LoRA and the singular values of AdaLoRA, which are 0, become random; the magnitudes of DoRA
    and the factors of IA3 are multiplied by random numbers near 1.
    """
    generator = torch.Generator().manual_seed(0)
    originals = [(name, p, p.data) for name, p in model.named_parameters() if any(part in name for part in _CHANGED)]
    try:
        for name, parameter, data in originals:
            noise = torch.randn(data.shape, generator=generator).to(data)
            factors = any(part in name for part in _FACTORS)
            parameter.data = data * (1 + 0.1 * noise) if factors else 0.02 * noise
        yield
    finally:
        for _, parameter, data in originals:
            parameter.data = data


def _model_logprobs(lm: Any, row: list[int]) -> Tensor:
    """Return the log-probs [T, V] of the next token after each token of a row, by the complete model."""
    ids = torch.tensor([row], device=next(lm.parameters()).device)
    with torch.no_grad():
        # prompt tuning of peft returns the logits of its virtual tokens too
        logits: Tensor = lm(input_ids=ids).logits[0, -len(row) :]
    return logits.float().log_softmax(-1)

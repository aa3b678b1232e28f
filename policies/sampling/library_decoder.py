"""Decoding by the forward pass of transformers, with its caches, for all architectures.

`Paths.decoding` names the way: one left-padded cache, a cache for the contexts of each length, or no cache. Paths that
have been proven up to a length only, and models whose positions change at a length, decode longer contexts in a cache
for each length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.base import check_contexts
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.packing import to_device
from rlalign.policies.scoring.paths import RowOperation


def left_padded(contexts: Sequence[Sequence[int]], width: int = 0) -> tuple[Tensor, Tensor]:
    """Return the ids [G, P] of contexts that end at the same column, padded with 0, and the mask [G, P] of real ids.

    P is the length of the longest context, or `width` if that is larger.
    """
    longest = max(width, *map(len, contexts))
    ids = torch.zeros(len(contexts), longest, dtype=torch.int64)
    mask = torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        ids[row, longest - len(context) :] = torch.as_tensor(context)
        mask[row, longest - len(context) :] = True
    return ids, mask


class CacheGroup:
    """Contexts in one transformers cache, all ending in the same slot.

    Attributes:
        cache: the transformers cache, of `size` rows.
        mask: bool [size, slots], true at real tokens. None if all tokens are real: attention without a mask is faster.
        positions: int64 [size], the lengths; None if the body computes positions.
        longest: the number of slots.
        size: rows of the cache.
        device: device of the cache.
    """

    def __init__(
        self, cache: Any, mask: Tensor | None, positions: Tensor | None, longest: int, size: int, device: torch.device
    ) -> None:
        self.device = device
        self.cache = cache
        self.mask = mask
        self.positions = positions
        self.longest = longest
        self.size = size

    def take(self, rows: Tensor, operation: RowOperation) -> None:
        """Keep the given rows of the cache, in order; the same row may occur several times."""
        if operation == "reorder":
            self.cache.reorder_cache(rows)
        else:
            self.cache.batch_select_indices(rows)
        self.mask = None if self.mask is None else self.mask[rows]
        self.positions = None if self.positions is None else self.positions[rows]
        self.size = len(rows)


class LibraryState:
    """n contexts in the caches of one or more groups.

    Attributes:
        groups: the caches.
        group: int64 [n] on the CPU, the group of each context.
        place: int64 [n] on the CPU, the row of each context in the cache of its group.
        contexts: the tokens of each context at first if they may be read again, else None.
        appended: the tokens appended since, a tensor [n] per step.
    """

    def __init__(self, operation: RowOperation, contexts: list[list[int]] | None) -> None:
        self._operation = operation
        self.groups: list[CacheGroup] = []
        self.group = torch.zeros(0, dtype=torch.int64)
        self.place = torch.zeros(0, dtype=torch.int64)
        self.contexts = contexts
        self.appended: list[Tensor] = []

    def __len__(self) -> int:
        """Return n."""
        return len(self.group)

    def members(self, index: int) -> Tensor:
        """Return the contexts [m] of a group, on the CPU."""
        return (self.group == index).nonzero().squeeze(1)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in order."""
        if len(self.groups) == 1 and self._operation != "keep" and self.contexts is None:
            # one cache with a row for each context: the rows need not be known on the CPU
            self.groups[0].take(rows, self._operation)
            self.group = torch.zeros(len(rows), dtype=torch.int64)
            self.place = torch.arange(len(rows))
            return
        rows = rows.cpu()
        self.group = self.group[rows]
        self.place = self.place[rows]
        if self.contexts is not None:
            self.contexts = [self.contexts[row] for row in rows.tolist()]
            self.appended = [tokens[rows.to(tokens.device)] for tokens in self.appended]
        self._drop_unused()

    def full_contexts(self, rows: Tensor) -> list[list[int]]:
        """Return the tokens of contexts, with those appended."""
        assert self.contexts is not None
        appended = torch.stack(self.appended).cpu()[:, rows].t().tolist() if self.appended else [[]] * len(rows)
        return [[*self.contexts[row], *tokens] for row, tokens in zip(rows.tolist(), appended, strict=True)]

    def _drop_unused(self) -> None:
        """Remove groups without a context, and rows of caches that no context is in."""
        groups: list[CacheGroup] = []
        for index in range(len(self.groups)):
            group = self.groups[index]
            members = self.members(index)
            if len(members) == 0:
                continue
            if self._operation != "keep" and not torch.equal(self.place[members], torch.arange(group.size)):
                group.take(self.place[members].to(group.device), self._operation)
                self.place[members] = torch.arange(len(members))
            self.group[members] = len(groups)  # not above `index`, so that no later group is confused with it
            groups.append(group)
        self.groups = groups

    def leave(self, rows: Tensor) -> None:
        """Take contexts out of their groups, before `join` puts them into others."""
        self.group[rows] = -1
        self._drop_unused()

    def join(self, group: CacheGroup, rows: Tensor) -> None:
        """Put contexts, which have left their groups, into a new one, in the order of its cache."""
        self.group[rows] = len(self.groups)
        self.place[rows] = torch.arange(len(rows))
        self.groups.append(group)


class LibraryDecoder:
    """Reads and advances contexts by a backbone, on the path that its `paths` names."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [m, V] of hidden states [m, d]."""
        return self.backbone.head(hidden)

    def read(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[Tensor, LibraryState]:
        """Read G contexts, each once if the cache can repeat its rows.

        Args:
            contexts: token ids of each context.
            repeats: copies of each context, in order.

        Returns:
            The hidden states [G, d] after the last tokens, and a state of Σ repeats rows.

        Raises:
            UserError: a context is empty or too long, or the model keeps no cache.
        """
        check_contexts(contexts)
        backbone = self.backbone
        backbone.check_length(max(map(len, contexts)))
        owner = torch.arange(len(contexts)).repeat_interleave(torch.as_tensor(repeats))
        rereads = backbone.paths.decoding == "reread"
        keeps_tokens = rereads or bool(backbone.boundaries)
        state = LibraryState(backbone.paths.rows, [list(contexts[i]) for i in owner.tolist()] if keeps_tokens else None)
        state.group = torch.full((len(owner),), -1)
        state.place = torch.zeros(len(owner), dtype=torch.int64)
        if rereads:
            return backbone.final_states(contexts), state
        hidden: list[Tensor] = [torch.empty(0)] * len(contexts)
        for indices, padded in self._grouped([len(context) for context in contexts]):
            members = torch.cat([(owner == i).nonzero().squeeze(1) for i in indices])
            counts = [int(repeats[i]) for i in indices]
            states, group = self._read_group([contexts[i] for i in indices], counts, padded=padded)
            state.join(group, members)
            for i, h in zip(indices, states, strict=True):
                hidden[i] = h
        return torch.stack(hidden), state

    def advance(self, state: LibraryState, tokens: Tensor) -> Tensor:
        """Append one token to each row [n]; return the hidden states [n, d] after it."""
        if state.contexts is not None:
            state.appended.append(tokens)  # stays on the device, because most steps do not read it
            if self.backbone.paths.decoding == "reread":
                return self.backbone.final_states(state.full_contexts(torch.arange(len(state))))
        crossing = [i for i, group in enumerate(state.groups) if group.longest in self.backbone.boundaries]
        if len(state.groups) == 1 and not crossing and state.groups[0].size == len(tokens):
            return self._step(state.groups[0], tokens)
        rows = torch.cat([torch.zeros(0, dtype=torch.int64), *(state.members(i) for i in crossing)])
        hidden: list[tuple[Tensor, Tensor]] = []
        if len(rows):
            state.leave(rows)
        for index, group in enumerate(state.groups):
            members = to_device(state.members(index), tokens.device)
            places = to_device(state.place[state.members(index)], tokens.device)
            # a finished row that stays in the cache gets token 0, and its state is not used
            group_tokens = tokens.new_zeros(group.size).index_copy(0, places, tokens[members])
            hidden.append((members, self._step(group, group_tokens)[places]))
        if len(rows):
            hidden += self._read_again(state, rows, tokens.device)
        out = hidden[0][1].new_empty(len(tokens), hidden[0][1].shape[1])
        for members, states in hidden:
            out[members] = states
        return out

    def _read_again(self, state: LibraryState, rows: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Read contexts in full into caches of equal length; return rows and states of each new group."""
        lengths = torch.tensor([len(context) for context in state.full_contexts(rows)])
        hidden = []
        for length in sorted(set(lengths.tolist())):
            members = rows[lengths == length]
            contexts = state.full_contexts(members)
            states, group = self._read_group(contexts, [1] * len(contexts), padded=False)
            state.join(group, members)
            hidden.append((to_device(members, device), states))
        return hidden

    def _grouped(self, lengths: Sequence[int]) -> list[tuple[list[int], bool]]:
        """Return the indices of contexts that share a cache, and whether they may be padded."""
        boundaries = self.backbone.boundaries
        padded = self.backbone.paths.decoding != "equal"
        short = [i for i, n in enumerate(lengths) if padded and (not boundaries or n <= boundaries[0])]
        groups = [(short, True)] if short else []
        rest = sorted(set(range(len(lengths))) - set(short))
        groups += [([i for i in rest if lengths[i] == n], False) for n in sorted({lengths[i] for i in rest})]
        return groups

    def _read_group(
        self, contexts: Sequence[Sequence[int]], repeats: Sequence[int], *, padded: bool
    ) -> tuple[Tensor, CacheGroup]:
        """Read contexts into one cache; return the hidden states [G, d] and the cache of Σ repeats rows."""
        backbone = self.backbone
        device = backbone.device
        owner = torch.arange(len(contexts)).repeat_interleave(torch.as_tensor(repeats))
        first = torch.tensor(repeats).cumsum(0) - torch.tensor(repeats)  # the first copy of each context
        keeps = backbone.paths.rows == "keep"
        ids, mask = left_padded([contexts[i] for i in owner.tolist()] if keeps else contexts)
        ids, mask = ids.to(device), mask.to(device)
        longest = ids.shape[1]
        ragged = padded and min(map(len, contexts)) < longest
        needed_mask = mask if ragged else None
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0) if padded else None  # 0 on padding, which the mask hides
        hidden, cache = backbone.run(ids, needed_mask, positions, keep_cache=True)
        if cache is None:
            raise UserError(
                f"expected a model that keeps a cache, got '{type(backbone.body).__name__}'; use --rollout.sampler "
                "generate"
            )
        lengths = None if positions is None else positions[:, -1] + 1
        group = CacheGroup(cache, needed_mask, lengths, longest, len(ids), device)
        states = hidden[:, -1]
        if keeps:
            return states[first.to(device)], group
        group.take(owner.to(device), backbone.paths.rows)
        return states, group

    def _step(self, group: CacheGroup, tokens: Tensor) -> Tensor:
        """Append one token to each row [size] of a cache; return the hidden states [size, d] after it."""
        group.longest += 1
        self.backbone.check_length(group.longest)
        if group.mask is not None:
            group.mask = torch.cat([group.mask, group.mask.new_ones(group.size, 1)], dim=1)
        positions = None if group.positions is None else group.positions[:, None]
        hidden, group.cache = self.backbone.run(tokens[:, None], group.mask, positions, group.cache, keep_cache=True)
        if group.positions is not None:
            group.positions = group.positions + 1
        return hidden[:, -1]

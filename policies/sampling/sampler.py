"""Samplers: our own decode loop, and transformers.generate as the reference implementation of the same distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError, did_you_mean
from rlalign.policies.base import CachedPrefix, DecodeState, Policy, Sampler, Samples
from rlalign.policies.logits import process
from rlalign.policies.sampling.cuda_graphs import FixedLoop, fits
from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.policies.sampling.fast_decoder import LeanState
from rlalign.policies.scoring.backbone import left_padded
from rlalign.types import Sampling

_LIVE_SHARE = 0.75
"""Finished rows leave the batch when the share of live ones falls to this."""
_CHECK_EVERY = 8
"""Tokens between looks at which rows have finished, on a device where looking means waiting for it."""
_LOOPS = 4
"""Kinds of rollout (training, evaluation, ...) whose buffers and graphs are kept."""


class DecodeSampler:
    """Draws token by token: each prompt is read once per group, finished rows leave, log-probs come from the drawing.

    Equal weights, contexts and generator state give bitwise equal samples on a CPU. Every row draws by uniform numbers
    of its own, so other rows touch what it draws by rounding only.

    Args:
        policy: what speaks.
        fixed: decode in buffers of fixed size, by captured graphs on CUDA, where the policy has a `LeanModel`; None:
            on CUDA.
    """

    def __init__(self, policy: Policy, *, fixed: bool | None = None) -> None:
        self.policy = policy
        self._fixed = policy.device.type == "cuda" if fixed is None else fixed
        self._loops: dict[tuple[Any, ...], tuple[DecodeBatch, FixedLoop]] = {}

    @torch.no_grad()
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
        """Continue each context; see `Sampler.sample`."""
        limits = _limits(contexts, max_new)
        n, width = len(contexts), max(limits)
        if width == 0:
            return Samples(torch.zeros(n, 0, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.zeros(n, 0))
        state, logits = self._read(contexts, cached)
        keep = cached is not None and isinstance(state, LeanState)
        if self._fixed and isinstance(state, LeanState):
            turns, loop = self._loop(limits, state.longest, stop_ids, sampling, greedy)
            turns.begin(limits, generator)
            left = loop.run(state, logits, width, keep=keep)
        else:
            turns = self._turns(n, width, stop_ids, sampling, greedy)
            turns.begin(limits, generator)
            # only the states that are kept are made in there, and what is made in there cannot be trained through
            with torch.inference_mode() if isinstance(state, LeanState) else nullcontext():
                left = self._run(turns, state, logits, width, keep)
        samples = turns.samples()
        return replace(samples, cached=_keep(contexts, samples, left)) if keep else samples

    def _read(
        self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix | None] | None
    ) -> tuple[DecodeState, Tensor]:
        """The contexts on from what was kept of them if that is their beginning, else afresh, a group once."""
        if cached is not None:
            known = [k for k, c in zip(cached, contexts, strict=True) if k is not None and _begins(c, k.tokens)]
            if len(known) == len(contexts):
                return self.policy.extend_cache(contexts, known)
        groups = [(list(c), len(list(same))) for c, same in groupby([tuple(c) for c in contexts])]
        return self.policy.prefill([c for c, _ in groups], [k for _, k in groups])

    def _run(
        self, turns: DecodeBatch, state: DecodeState, logits: Tensor, width: int, keep: bool
    ) -> list[tuple[Tensor, LeanState]]:
        """The loop over columns; returns the rows in the order in which they left, with their states, if asked to."""
        left: list[tuple[Tensor, LeanState]] = []
        every = 1 if self.policy.device.type == "cpu" else _CHECK_EVERY
        for column in range(1, width + 1):
            drawn = turns.draw(logits)
            if column == width:
                break
            live = turns.live[: len(drawn)]
            if column % every == 0:
                count = int(live.sum())
                if count == 0:
                    break
                if count <= _LIVE_SHARE * len(drawn):
                    stay = live.nonzero().squeeze(1)
                    if keep and isinstance(state, LeanState):
                        go = (~live).nonzero().squeeze(1)
                        left.append((turns.rows[go], state.take(go)))
                    state.select(stay)
                    turns.select(stay)
                    drawn = drawn[stay]
            logits = self.policy.decode(state, drawn)
        if keep and isinstance(state, LeanState):
            left.append((turns.rows[: len(drawn)], state))
        return left

    def _turns(self, size: int, width: int, stop_ids: frozenset[int], sampling: Sampling, greedy: bool) -> DecodeBatch:
        pad, device = self.policy.tokenizer.pad_id, self.policy.device
        return DecodeBatch(size, width, stop_ids, sampling, greedy=greedy, pad_id=pad, device=device)

    def _loop(
        self, limits: Sequence[int], longest: int, stop_ids: frozenset[int], sampling: Sampling, greedy: bool
    ) -> tuple[DecodeBatch, FixedLoop]:
        """Buffers and graphs for such a rollout: those of an earlier one, when it was alike."""
        size, width, slots = fits(limits, longest)
        key = (size, width, slots, stop_ids, sampling, greedy)
        if key not in self._loops:
            if len(self._loops) == _LOOPS:
                self._loops.pop(next(iter(self._loops)))
            turns = self._turns(size, width, stop_ids, sampling, greedy)
            model = self.policy.lean
            assert model is not None
            self._loops[key] = turns, FixedLoop(model, turns, slots, self.policy.device)
        return self._loops[key]


def _begins(context: Sequence[int], tokens: Sequence[int]) -> bool:
    return len(tokens) < len(context) and list(context[: len(tokens)]) == list(tokens)


def _keep(
    contexts: Sequence[Sequence[int]], samples: Samples, left: Sequence[tuple[Tensor, Any]]
) -> list[CachedPrefix | None]:
    """What was read of each row: its context and what it said, as far as that reached the state."""
    cached: list[CachedPrefix | None] = [None] * len(contexts)
    for rows, state in left:
        for place, (row, read) in enumerate(zip(rows.tolist(), state.positions.tolist(), strict=True)):
            if row >= len(contexts):
                continue  # a place that was only there to fill the buffers up
            said = samples.tokens[row, : samples.lengths[row]].tolist()
            cached[row] = CachedPrefix([*contexts[row], *said][:read], state, place)
    return cached


class GenerateSampler:
    """The same through transformers.generate: slower, independent of our decode loop, for transformers models only."""

    def __init__(self, policy: Policy) -> None:
        from rlalign.policies.causal import CausalPolicy

        if not isinstance(policy, CausalPolicy):
            raise UserError(f"transformers.generate cannot run a {type(policy).__name__}: use --rollout.sampler decode")
        self.policy = policy

    @torch.no_grad()
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
        """Continue each context; see `Sampler.sample`. Draws from a seed that the generator gives; keeps nothing."""
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        limits = _limits(contexts, max_new)
        policy, n, width = self.policy, len(contexts), max(limits)
        device, pad = policy.device, policy.tokenizer.pad_id
        if width == 0:
            return Samples(torch.zeros(n, 0, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.zeros(n, 0))
        ids, mask = left_padded(contexts)
        longest = ids.shape[1]
        limit = torch.tensor(limits, device=device)
        record = _Record(sampling)

        def past_limit(sequences: Tensor, _: Any, **__: Any) -> Tensor:
            return limit <= sequences.shape[1] - longest

        config = GenerationConfig(  # type: ignore[no-untyped-call]  # untyped in transformers
            do_sample=not greedy,
            num_beams=1,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=width,
            eos_token_id=sorted(stop_ids) or None,
            pad_token_id=pad,
            bos_token_id=None,
        )
        seed = int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))
        lm = policy.decoder
        own = lm.generation_config
        # generate fills what we leave open (a repetition penalty, say) from the model's own settings
        lm.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # untyped in transformers
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _restoring(lm, own):
            torch.manual_seed(seed)
            out = lm.generate(
                ids.to(device),
                attention_mask=mask.long().to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([record]),
                stopping_criteria=StoppingCriteriaList([past_limit]),
            )
        tokens = out[:, longest:].cpu()
        logprobs = record.finish(out).cpu()
        stopped = torch.isin(tokens, torch.tensor(sorted(stop_ids), dtype=torch.int64))
        # Up to and with the first stop token; after it generate only pads.
        ended = stopped.cumsum(dim=1) - stopped.long() > 0
        columns = torch.arange(tokens.shape[1])
        inside = ~ended & (columns < torch.tensor(limits)[:, None])
        return Samples(
            torch.where(inside, tokens, pad), inside.sum(dim=1), torch.where(inside, logprobs, torch.zeros(()))
        )


@contextmanager
def _restoring(lm: Any, own: Any) -> Iterator[None]:
    try:
        yield
    finally:
        lm.generation_config = own


class _Record:
    """A logits processor that applies our processing and remembers each drawn token's log-prob, one step behind."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._last: Tensor | None = None
        self._columns: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._note(input_ids)
        self._last = process(scores, self.sampling)
        return self._last

    def finish(self, sequences: Tensor) -> Tensor:
        """Log-probs [n, T] of everything drawn."""
        self._note(sequences)
        return torch.stack(self._columns, dim=1)

    def _note(self, sequences: Tensor) -> None:
        if self._last is not None:
            z, y = self._last, sequences[:, -1:]
            self._columns.append(z.gather(-1, y).squeeze(-1) - z.logsumexp(dim=-1))


_SAMPLERS: dict[str, type[DecodeSampler] | type[GenerateSampler]] = {
    "decode": DecodeSampler,
    "generate": GenerateSampler,
}


def make_sampler(name: str, policy: Policy) -> Sampler:
    """The sampler of a name: "decode" or "generate". Raises UserError for another one."""
    if name not in _SAMPLERS:
        raise UserError(f"unknown sampler '{name}'.{did_you_mean(name, _SAMPLERS)}")
    return _SAMPLERS[name](policy)


def _limits(contexts: Sequence[Sequence[int]], max_new: int | Sequence[int]) -> list[int]:
    limits = [max_new] * len(contexts) if isinstance(max_new, int) else [int(m) for m in max_new]
    if not contexts or len(limits) != len(contexts) or min(limits) < 0:
        raise UserError(
            f"{len(contexts)} contexts and token limits {limits[:8]}: give one limit of 0 or more for each context"
        )
    if not all(len(c) for c in contexts):
        raise UserError(
            "a context is empty, and a language model has nothing to predict a token from: start it with BOS"
        )
    return limits

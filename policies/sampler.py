"""Samplers: our own decode loop, and transformers.generate as the reference implementation of the same distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError, did_you_mean
from rlalign.policies.backbone import left_padded
from rlalign.policies.base import Policy, Sampler, Samples
from rlalign.policies.processing import draw, process
from rlalign.types import Sampling

_LIVE_SHARE = 0.75
"""Finished rows leave the batch when the share of live ones falls to this."""
_CHECK_EVERY = 8
"""Tokens between looks at which rows have finished, on a device where looking means waiting for it."""


class DecodeSampler:
    """Draws token by token: each prompt is read once per group, finished rows leave, log-probs come from the drawing.

    Equal weights, contexts and generator state give bitwise equal samples on a CPU. What a row draws may depend on the
    other rows of the batch.
    """

    def __init__(self, policy: Policy) -> None:
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
    ) -> Samples:
        """Continue each context; see `Sampler.sample`."""
        limits = _limits(contexts, max_new)
        policy, n, width = self.policy, len(contexts), max(limits)
        device = policy.device
        tokens = torch.full((n, width), policy.tokenizer.pad_id, dtype=torch.int64, device=device)
        logprobs = torch.zeros(n, width, device=device)
        lengths = torch.zeros(n, dtype=torch.int64, device=device)
        limit = torch.tensor(limits, device=device)
        stops = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        every = 1 if device.type == "cpu" else _CHECK_EVERY

        groups = [(list(c), len(list(same))) for c, same in groupby([tuple(c) for c in contexts])]
        state, logits = policy.prefill([c for c, _ in groups], [k for _, k in groups])
        rows = torch.arange(n, device=device)  # which rows are still in the batch
        live = limit > 0
        for column in range(width):
            drawn, chosen = draw(logits, sampling, generator, greedy=greedy)
            tokens[rows, column] = torch.where(live, drawn, tokens[rows, column])
            logprobs[rows, column] = torch.where(live, chosen, 0.0)
            lengths[rows] += live
            live = live & ~torch.isin(drawn, stops) & (limit[rows] > column + 1)
            if column + 1 == width:
                break
            if (column + 1) % every == 0:
                count = int(live.sum())
                if count == 0:
                    break
                if count <= _LIVE_SHARE * len(rows):
                    keep = live.nonzero().squeeze(1)
                    state.select(keep)
                    rows, live, drawn = rows[keep], live[keep], drawn[keep]
            logits = policy.decode(state, drawn)
        lengths, used = lengths.cpu(), int(lengths.max())
        return Samples(tokens[:, :used].cpu(), lengths, logprobs[:, :used].cpu())


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
    ) -> Samples:
        """Continue each context; see `Sampler.sample`. Draws from a seed that the generator gives."""
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

        config = GenerationConfig(  # type: ignore[no-untyped-call]
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
        lm.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
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

"""Sampling by transformers.generate: the reference implementation of the same distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.device import on_device
from rlalign.policies.logits import process
from rlalign.policies.sampling.library_decoder import left_padded
from rlalign.policies.sampling.sampler import CachedPrefix, Samples, no_tokens, token_limits
from rlalign.types import Sampling


class GenerateSampler:
    """Samples through transformers.generate: slower, independent of the decode loop, for transformers models only.

    Where `CausalPolicy.paths` rules out padding, contexts of each length are generated separately; where it rules out
    the cache, without one.

    Args:
        policy: a `CausalPolicy` without virtual tokens. Raises UserError for another one.
    """

    def __init__(self, policy: Policy) -> None:
        if not isinstance(policy, CausalPolicy):
            raise UserError(f"transformers.generate cannot run a {type(policy).__name__}; use --rollout.sampler decode")
        if policy.virtual is not None:
            raise UserError(
                f"transformers.generate does not read the virtual tokens of {policy.virtual.kind}; use "
                "--rollout.sampler decode"
            )
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
        """Continue each context; see `Sampler.sample`. Draws with a seed from the generator; caches nothing."""
        limits = token_limits(contexts, max_new)
        if max(limits) == 0:
            return no_tokens(len(contexts))
        with on_device(self.policy.device):
            return self._sample(contexts, limits, stop_ids, sampling, generator, greedy)

    def _sample(
        self,
        contexts: Sequence[Sequence[int]],
        limits: list[int],
        stop_ids: frozenset[int],
        sampling: Sampling,
        generator: torch.Generator,
        greedy: bool,
    ) -> Samples:
        """Continue the contexts in one batch, or those of each length in a batch of their own."""
        settings = (stop_ids, sampling, generator, greedy)
        if self.policy.paths.decoding in ("optimized", "padded") and self.policy.paths.proven is None:
            return self._generate(contexts, limits, *settings)
        pad_id = self.policy.tokenizer.pad_id
        tokens = torch.full((len(contexts), max(limits)), pad_id, dtype=torch.int64)
        lengths = torch.zeros(len(contexts), dtype=torch.int64)
        logprobs = torch.zeros(tokens.shape)
        for length in sorted({len(context) for context in contexts}):
            rows = [row for row, context in enumerate(contexts) if len(context) == length and limits[row]]
            if not rows:
                continue
            part = self._generate([contexts[row] for row in rows], [limits[row] for row in rows], *settings)
            width = part.tokens.shape[1]
            lengths[rows] = part.lengths
            tokens[rows, :width] = part.tokens
            logprobs[rows, :width] = part.logprobs
        longest = int(lengths.max())
        return Samples(tokens[:, :longest], lengths, logprobs[:, :longest])

    def _generate(
        self,
        contexts: Sequence[Sequence[int]],
        limits: Sequence[int],
        stop_ids: frozenset[int],
        sampling: Sampling,
        generator: torch.Generator,
        greedy: bool,
    ) -> Samples:
        """Continue contexts in one left-padded batch."""
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        width = max(limits)
        policy = self.policy
        device = policy.device
        pad_id = policy.tokenizer.pad_id
        ids, mask = left_padded(contexts)
        longest = ids.shape[1]
        limit = torch.tensor(limits, device=device)
        recorder = _LogprobRecorder(sampling)

        def past_limit(sequences: Tensor, _: Any, **__: Any) -> Tensor:
            return limit <= sequences.shape[1] - longest

        # neutral settings: the recorder applies temperature, top-k and top-p
        config = GenerationConfig(  # type: ignore[no-untyped-call]  # untyped in transformers
            do_sample=not greedy,
            num_beams=1,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=width,
            use_cache=policy.paths.decoding != "reread",
            eos_token_id=sorted(stop_ids) or None,
            pad_token_id=pad_id,
            bos_token_id=None,
        )
        # generate draws from the global generator only, so a seed of the given one is set for its duration
        seed = int(torch.randint(1 << 62, (1,), generator=generator, device=generator.device))
        lm = policy.decoding_lm
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            _empty_generation_config(lm),
        ):
            torch.manual_seed(seed)
            sequences = lm.generate(
                ids.to(device),
                attention_mask=mask.long().to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([recorder]),
                stopping_criteria=StoppingCriteriaList([past_limit]),
            )
        tokens = sequences[:, longest:].cpu()
        logprobs = recorder.finish(sequences).cpu()
        stopped = torch.isin(tokens, torch.tensor(sorted(stop_ids), dtype=torch.int64))
        # true after the first stop token, which itself is kept: only padding follows
        ended = stopped.cumsum(dim=1) - stopped.long() > 0
        columns = torch.arange(tokens.shape[1])
        inside = ~ended & (columns < torch.tensor(limits)[:, None])
        return Samples(
            torch.where(inside, tokens, pad_id), inside.sum(dim=1), torch.where(inside, logprobs, torch.zeros(()))
        )


@contextmanager
def _empty_generation_config(lm: Any) -> Iterator[None]:
    """Replace the model's own generation settings by defaults, and restore them.

    generate takes settings that we leave open (a repetition penalty, for example) from the model.
    """
    from transformers import GenerationConfig

    own = lm.generation_config
    lm.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        yield
    finally:
        lm.generation_config = own


class _LogprobRecorder:
    """A logits processor that applies `logits.process` and records the log-prob of each drawn token.

    A call sees the token that the previous call's logits led to, so it records one step behind.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._last: Tensor | None = None
        self._columns: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._record(input_ids)
        self._last = process(scores, self.sampling)
        return self._last

    def finish(self, sequences: Tensor) -> Tensor:
        """Return the log-probs [n, T] of all drawn tokens."""
        self._record(sequences)
        return torch.stack(self._columns, dim=1)

    def _record(self, sequences: Tensor) -> None:
        if self._last is not None:
            z, y = self._last, sequences[:, -1:]
            self._columns.append(z.gather(-1, y).squeeze(-1) - z.logsumexp(dim=-1))

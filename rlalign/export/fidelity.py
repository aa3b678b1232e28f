"""How close a form is to the policy: log-probs of every token at held-out positions, by its own loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlalign.errors import FaultError
from rlalign.export.forms import Form
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_sampler
from rlalign.policies.weight_dtype import float32_copy
from rlalign.types import Sampling

_ROWS = 8
_POSITIONS = 64
_ENTRIES = 1_500_000
"""Log-probs that are compared: llama.cpp writes about 60,000 per second as text, so a large vocabulary is compared at
fewer positions."""
_FAR = 0.1
_SAME = 0.8
"""KL in nats per token above which, and share of positions with the same best token below which, a form is far."""
_LIKELY = -12.0
"""Log-prob of the policy from which a token counts for `nats`: rarer ones are drawn once in 160,000 tokens."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Distance of a form from the policy.

    Attributes:
        kl: nats per token, mean over positions of KL(policy ‖ form), exact over the vocabulary.
        nats: largest difference of a log-prob, over tokens that the policy gives a log-prob of -12 or more.
        agreement: share of positions with the same most probable token.
        positions: number of positions.
    """

    kl: float
    nats: float
    agreement: float
    positions: int

    @property
    def is_far(self) -> bool:
        """True if the completions of the form likely differ: wide bounds of 4-bit forms hold for such files too."""
        return not (self.kl <= _FAR and self.agreement >= _SAME)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def excess(self, form: Form, kl_bound: float | None = None) -> str:
        """Return by how much a bound is exceeded, in words; "" within the bounds. NaN exceeds any bound.

        Args:
            form: whose bounds hold.
            kl_bound: in place of the form's bounds; None: these.
        """
        most = form.kl_bound if kl_bound is None else kl_bound
        if not self.kl <= most:
            return f"a KL of {self.kl:.2g} nats per token (bound {most:g})"
        if kl_bound is None and form.nats_bound is not None and not self.nats <= form.nats_bound:
            return f"a log-prob that differs by {self.nats:.2g} nats (bound {form.nats_bound:g})"
        return ""


@dataclass(frozen=True)
class Probe:
    """Held-out token ids, the positions that are compared, and the policy's log-probs there.

    Attributes:
        rows: token ids of prompts, each continued by the policy.
        positions: for each row, the indices whose next token is predicted.
        logprobs: float32 [n, V] of the policy, n positions in all.
    """

    rows: list[list[int]]
    positions: list[list[int]]
    logprobs: NDArray[np.float32]

    def with_model(self, model: Any) -> Probe:
        """Return the same positions with the log-probs of another model, in float32 on the CPU."""
        return Probe(self.rows, self.positions, model_logprobs(model, self.rows, self.positions))

    def compare(self, logprobs: NDArray[np.float32]) -> Fidelity:
        """Return the distance of a form's log-probs [n, V], both normalized in float64.

        Raises:
            FaultError: the form has a vocabulary of another size.
        """
        if logprobs.shape != self.logprobs.shape:
            raise FaultError(
                f"expected log-probs of {self.logprobs.shape[1]} tokens, got {logprobs.shape[1]}; report this as a bug"
            )
        from scipy.special import log_softmax

        # log-softmax in float32 over a large vocabulary is normalized to 1e-4 only, which a KL would inherit
        policy = log_softmax(self.logprobs.astype(np.float64), axis=-1)
        form = log_softmax(logprobs.astype(np.float64), axis=-1)
        kl = (np.exp(policy) * (policy - form)).sum(-1).mean()
        nats = np.abs(policy - form)[policy >= _LIKELY].max()
        agreement = (policy.argmax(-1) == form.argmax(-1)).mean()
        return Fidelity(float(kl), float(nats), float(agreement), len(policy))


def make_probe(policy: Policy, contexts: Sequence[Sequence[int]], *, max_new: int, seed: int) -> Probe:
    """Continue held-out prompts by the policy and return its log-probs along the completions.

    Args:
        policy: a causal policy.
        contexts: token ids of held-out prompts; the first eight are read.
        max_new: tokens per completion at most.
        seed: of the completions.
    """
    contexts = [list(context) for context in contexts[:_ROWS]]
    policy.begin_rollout()
    samples = make_sampler("decode", policy).sample(
        contexts,
        max_new=max_new,
        stop_ids=frozenset(getattr(policy.tokenizer, "stop_ids", {policy.tokenizer.eos_id})),
        sampling=Sampling(),
        generator=torch.Generator(policy.device).manual_seed(seed),
    )
    lm: Any = policy
    vocabulary = int(lm.lm.get_input_embeddings().weight.shape[0])
    per_row = max(1, min(_POSITIONS, _ENTRIES // vocabulary) // len(contexts))
    rows, positions = [], []
    for context, tokens, length in zip(contexts, samples.tokens.tolist(), samples.lengths.tolist(), strict=True):
        row = [*context, *tokens[:length]]
        # evenly spaced from the last token of the prompt, whose next token is the first of the completion
        chosen = np.linspace(len(context) - 1, len(row) - 2, min(per_row, length)).round().astype(int)
        rows.append(row)
        positions.append(sorted({int(i) for i in chosen}) or [len(context) - 1])
    return Probe(rows, positions, model_logprobs(float32_copy(lm.model), rows, positions))


@torch.no_grad()
def model_logprobs(model: Any, rows: list[list[int]], positions: list[list[int]]) -> NDArray[np.float32]:
    """Return log-probs [n, V] of a model on the CPU. Each row is read alone, so nothing is padded."""
    parts = []
    for row, chosen in zip(rows, positions, strict=True):
        logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, chosen]
        parts.append(logits.float().log_softmax(-1))
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result

"""Logits from hidden states, by the formula of a linear head or by the model's own forward pass behind its body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from rlalign.policies.scoring.fused_logprobs import fused_logprobs
from rlalign.policies.scoring.linear import Linear
from rlalign.policies.scoring.token_scores import plain_scorer
from rlalign.types import Sampling

_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)


class Head:
    """The map from hidden states [M, d] to logits [M, V].

    Most models multiply by the weights of a linear layer. Some then apply a factor, a divisor or a soft cap, and some
    have further layers in front. The formula covers the first two kinds. For all others, `kind` "model" runs the
    model's own forward pass with a body that returns the given hidden states: the model's own function of them.

    Args:
        lm: a transformers `...ForCausalLM` with output embeddings.
        body: its body, whose forward pass is replaced meanwhile.
        kind: "formula" or "model".
    """

    def __init__(self, lm: Any, body: nn.Module, kind: Literal["formula", "model"] = "formula") -> None:
        self._lm = lm
        self._body = body
        self._linear = lm.get_output_embeddings()
        self.kind = kind
        config = lm.config.get_text_config()
        self.vocab_size: int = getattr(self._linear, "weight", torch.empty(config.vocab_size, 0)).shape[0]
        self.softcap = next((cap for cap in (_number(config, name) for name in _SOFT_CAPS) if cap), None)
        self.scale = 1.0
        for name in _FACTORS:
            self.scale *= _number(config, name) or 1.0
        for name in _DIVISORS:
            self.scale /= _number(config, name) or 1.0

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits [M, V] of hidden states [M, d]."""
        if self.kind == "model":
            return self._model_logits(hidden)
        if not torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(self._linear.weight.dtype)  # bodies of state-space models return float32
        logits: Tensor = self._linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def score(self, states: Tensor, targets: Tensor, sampling: Sampling, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Compute log-probs and entropies of targets [A] from the states [A, d] before them, as a `Scorer`."""
        if self.kind == "model" or self.softcap or type(self._linear) is not Linear:
            return plain_scorer(self, self.vocab_size)(states, targets, sampling, entropy)
        device_type = states.device.type
        weight: Tensor = self._linear.weight
        bias: Tensor | None = self._linear.bias
        if torch.is_autocast_enabled(device_type):
            # the cast stands outside of the fused function, so that autograd returns a gradient in the weight's dtype
            weight = weight.to(torch.get_autocast_dtype(device_type))
            bias = None if bias is None else bias.to(weight.dtype)
        with torch.autocast(device_type, enabled=False):
            return fused_logprobs(states, weight, bias, targets, self.scale, sampling, entropy)

    def _model_logits(self, hidden: Tensor) -> Tensor:
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        with _returning(self._body, BodyOutput(last_hidden_state=hidden[None])):
            logits: Tensor = self._lm(input_ids=ids, use_cache=False).logits[0]
        return logits


@dataclass
class BodyOutput(ModelOutput):
    """Output of a body that has hidden states only; each other attribute that a model reads is None."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        """Return None for an attribute that is not set."""
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _returning(body: nn.Module, output: BodyOutput) -> Iterator[None]:
    """Replace the forward pass of a body by one that returns a fixed output."""
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del body.forward  # the method of the class is visible again


def _number(config: Any, name: str) -> float | None:
    """Return a number of a configuration; None if it is absent or of another type."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

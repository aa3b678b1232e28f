"""A change of a model as small as float32 rounding, which shows the positions that float32 does not determine.

At single positions of a deep model, rounding grows a hundredfold: transformers itself is 8e-4 nats from float64 at one
token of SmolLM2, and 4e-6 at the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SMALL_CHANGE = 1e-6
"""Relative change of the embeddings: some units in the last place of float32."""


@contextmanager
def rounded_embeddings(lm: Any, size: float = SMALL_CHANGE, seed: int = 0) -> Iterator[None]:
    """Multiply the output of the input embeddings by 1 + `size` · N(0, 1) within the block."""
    generator = torch.Generator().manual_seed(seed)

    def change(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator).to(output)
        return output * (1 + size * noise)

    hook = lm.get_input_embeddings().register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()

"""Loss and metrics of micro-batches, summed on the device and brought over once."""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective import LossSum


class Sums:
    """Loss and metrics of the micro-batches so far, on the device until `means` asks."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.maxima: dict[str, Tensor] = {}

    def add(self, part: LossSum) -> None:
        """Take in the metrics of one part."""
        for name, (total, count) in part.metrics.items():
            old = self.pairs.get(name)
            self.pairs[name] = (total, count) if old is None else (old[0] + total, old[1] + count)
        for name, value in part.maxima.items():
            self.maxima[name] = torch.maximum(self.maxima[name], value) if name in self.maxima else value

    def means(self, norm: Tensor) -> dict[str, float]:
        """Every metric, the loss and the norm of the gradient as numbers, brought over in one transfer."""
        found = {name: total / count.clamp(min=1) for name, (total, count) in self.pairs.items()}
        found |= {**self.maxima, "loss": torch.as_tensor(self.loss), "grad_norm": norm}
        device = found["loss"].device
        numbers = torch.stack([value.detach().double().to(device) for value in found.values()]).tolist()
        return dict(zip(found, numbers, strict=True))

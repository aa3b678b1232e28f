"""Loss and metrics of an update, summed over its micro-batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from rlalign.objective import LossSum


class MetricSums:
    """Running sums over micro-batches. They stay on the device until `means` transfers them, once."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.maxima: dict[str, Tensor] = {}

    def add(self, part: LossSum) -> None:
        """Add the metrics of one loss term of one micro-batch."""
        for name, (total, count) in part.metrics.items():
            old = self.pairs.get(name)
            self.pairs[name] = (total, count) if old is None else (old[0] + total, old[1] + count)
        for name, value in part.maxima.items():
            self.maxima[name] = torch.maximum(self.maxima[name], value) if name in self.maxima else value

    def add_penalty(self, name: str, value: Tensor) -> None:
        """Add a term of the loss that does not depend on the rows, as a metric and to the loss."""
        self.pairs[name] = (value, torch.ones_like(value))
        self.loss = self.loss + value

    def means(self, grad_norm: Tensor) -> dict[str, float]:
        """Return each metric, the loss and the gradient norm as numbers, in one transfer from the device."""
        values = {name: total / count.clamp(min=1) for name, (total, count) in self.pairs.items()}
        values |= {**self.maxima, "loss": torch.as_tensor(self.loss), "grad_norm": grad_norm}
        device = values["loss"].device
        numbers = torch.stack([value.detach().double().to(device) for value in values.values()]).tolist()
        return dict(zip(values, numbers, strict=True))

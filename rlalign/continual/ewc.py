"""Elastic weight consolidation: a quadratic penalty that holds weights which a former task needs near their start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import FaultError


def penalty(
    parameters: Mapping[str, Tensor], start: Mapping[str, Tensor], fisher: Mapping[str, Tensor], coef: float
) -> Tensor:
    """Return the penalty of elastic weight consolidation, a scalar with gradient.

    ::

        coef / 2 · Σ_i F_i (theta_i - theta*_i)²

    Source: Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3.

    Args:
        parameters: name -> theta.
        start: name -> theta*, of the same shapes.
        fisher: name -> F, the diagonal Fisher information at theta*, of the same shapes.
        coef: lambda, 0 or more.

    Example:
        >>> import torch
        >>> theta, start, fisher = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0])
        >>> penalty({"w": theta}, {"w": start}, {"w": fisher}, coef=3.0).item()
        3.0
    """
    terms = [(fisher[name] * (theta - start[name]).square()).sum() for name, theta in parameters.items()]
    return coef / 2 * torch.stack(terms).sum()


class EWC:
    """The penalty of a run, whose Fisher information is computed once, at its start, and is part of its checkpoints.

    Args:
        coef: lambda, above 0.
        parameters: name -> trained parameter, in place.

    Attributes:
        coef: lambda.
        start: name -> value at the start; empty before `begin`.
        fisher: name -> diagonal Fisher information, of the same shape; empty before `begin`.
    """

    def __init__(self, coef: float, parameters: Mapping[str, nn.Parameter]) -> None:
        self.coef = coef
        self.parameters = dict(parameters)
        self.start: dict[str, Tensor] = {}
        self.fisher: dict[str, Tensor] = {}

    def begin(self, fisher: Mapping[str, Tensor]) -> None:
        """Set the start to the present values.

        Args:
            fisher: diagonal Fisher information at these values.
        """
        self.start = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.fisher = dict(fisher)

    @torch.no_grad()
    def add_gradient(self) -> Tensor:
        """Add the gradient coef · F (theta - theta*) to each parameter's gradient; return the penalty, a scalar.

        A parameter without a gradient gets one.
        """
        for name, parameter in self.parameters.items():
            gradient = self.coef * self.fisher[name] * (parameter - self.start[name])
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return penalty(self.parameters, self.start, self.fisher, self.coef)

    def state_dict(self) -> dict[str, Any]:
        """Return start and Fisher information as tensors."""
        return {"start": self.start, "fisher": self.fisher}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: of a checkpoint; None: it holds none.

        Raises:
            FaultError: the state is missing or belongs to other parameters.
        """
        start, fisher = (dict((state or {}).get(part, {})) for part in ("start", "fisher"))
        if start.keys() != self.parameters.keys() or fisher.keys() != self.parameters.keys():
            raise FaultError(
                "the checkpoint holds no Fisher information of these parameters, which is computed at the start of a "
                "run alone; use --continual.ewc 0 with --allow-change, or start a new run"
            )
        self.start = {name: start[name].to(parameter) for name, parameter in self.parameters.items()}
        self.fisher = {name: fisher[name].to(parameter) for name, parameter in self.parameters.items()}

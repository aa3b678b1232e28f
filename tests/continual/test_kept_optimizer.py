"""The numbering of an optimizer with a group of its own for the value: not that of the parameters' names."""

from __future__ import annotations

from pathlib import Path

import torch

from rlalign.continual.former_weights import FormerWeights
from rlalign.continual.kept_optimizer import moments_by_name


def test_parameters_of_the_value_are_numbered_last_if_they_have_a_group_of_their_own() -> None:
    body, value = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    named = {"value_head.weight": value, "z_body.weight": body}  # the value is named first
    for groups, first in (
        ([{"params": [body]}, {"params": [value], "lr": 0.1}], "z_body.weight"),
        ([{"params": list(named.values())}], "value_head.weight"),
    ):
        optimizer = torch.optim.AdamW(groups)
        for parameter in named.values():
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        state = optimizer.state_dict()
        assert state["param_groups"][0]["params"][0] == 0
        former = FormerWeights(Path("runs/a"), named, state, tuple(named), is_best=False)
        moments = moments_by_name(former)
        assert next(iter(moments)) == first
        for name, parameter in named.items():
            assert moments[name]["exp_avg"].shape == parameter.shape

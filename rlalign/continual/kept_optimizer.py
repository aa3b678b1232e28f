"""The AdamW moments of a former run as the initial ones of the run that continues it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlalign.continual.former_weights import FormerWeights, check_same_tensors

_SETTING = "continual.optimizer kept"


def keep_moments(former: FormerWeights, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    """Set the moments and step counts of an optimizer to those of a former run. The learning rate is not changed.

    The step count comes along: with a count of 0 the bias correction would divide the old moments by 1 - beta, which
    multiplies them by 10 and 1,000 at the default betas.

    Args:
        former: of the run that is continued.
        parameters: name -> parameter, as `Policy.trainable` returns them, before the first update.
        optimizer: of these parameters, without any step.

    Raises:
        UserError: the trained tensors differ; the message names them. Nothing was set.
    """
    check_same_tensors(former, parameters, _SETTING)
    for name, moments in moments_by_name(former).items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key == "step" else value.to(parameter) for key, value in moments.items()
        }


def moments_by_name(former: FormerWeights) -> dict[str, dict[str, Tensor]]:
    """Return name of the parameter -> its state of AdamW (step, exp_avg, exp_avg_sq), of parameters that had one.

    The optimizer numbers the parameters group by group. A second group holds the parameters of the value, whose names
    begin with `value` (see `Policy.value_trainable`).
    """
    groups = former.optimizer["param_groups"]
    names: list[str] = list(former.names)
    if len(groups) > 1:
        of_value = [name for name in names if name.startswith("value")]
        names = [name for name in names if not name.startswith("value")] + of_value
    numbers = [number for group in groups for number in group["params"]]
    states = {int(number): state for number, state in former.optimizer["state"].items()}
    return {name: states[number] for name, number in zip(names, numbers, strict=True) if number in states}

"""LoRA adapters of a causal policy: adding them, merging them into weights, and replacing the weights under them.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import Tensor, nn

from rlalign.policies.device import seeded
from rlalign.policies.options import PolicyOptions
from rlalign.policies.scoring.linear import LoraLinear


def add_lora(lm: Any, options: PolicyOptions, seed: int) -> Any:
    """Return a peft model of `lm` with float32 adapters on all linear layers but the head, drawn from the seed."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=options.lora_r or 0,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in lm.modules()),  # GPT-2 stores its weights as [in, out]
        task_type="CAUSAL_LM",
    )
    with seeded(seed), warnings.catch_warnings():
        # peft uses a deprecated attribute of transformers; the user cannot change that
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = get_peft_model(lm, config, autocast_adapter_dtype=True)
    for module in model.modules():
        # the base class of LoraLinear is peft's own layer; it stays for Conv1D (GPT-2), whose weight is [in, out]
        if isinstance(module, LoraLinear.__mro__[1]) and type(module.base_layer) is nn.Linear:
            module.__class__ = LoraLinear
    return model


def merged_weights(body: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a body with its adapters added, by the names that a body without adapters has."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(body)
    for module in merged.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    weights = {}
    for name, parameter in merged.named_parameters():
        if ".lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = parameter.detach().cpu().contiguous()
    return weights


def replace_base_weights(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the result of `merged_weights` under the adapters of a body, which then shares no frozen weight any more."""
    for name, old in list(body.named_parameters()):
        if ".lora_" not in name:
            parent, _, leaf = name.rpartition(".")
            # a new parameter: writing into the old one would change the other body that shares it
            new = nn.Parameter(weights[name.replace(".base_layer.", ".")].to(old), requires_grad=old.requires_grad)
            setattr(body.get_submodule(parent), leaf, new)

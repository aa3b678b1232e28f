"""A new adapter of any kind over a transformers model, drawn from a seed.

lora     Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685
rslora   Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", arXiv:2312.03732
dora     Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353
adalora  Zhang et al. 2023, "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv:2303.10512
ia3      Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper", arXiv:2205.05638
prefix   Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv:2101.00190
prompt   Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691
"""

from __future__ import annotations

import math
from typing import Any

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.adalora import use_sums
from rlalign.policies.adapter_kinds.dora import use_float32_norms
from rlalign.policies.adapter_kinds.virtual_tokens import initialize_from_tokens, refuse_for_virtual_tokens
from rlalign.policies.device import seeded
from rlalign.policies.lora import (
    expert_parameters,
    hidden_peft_warnings,
    not_adaptable,
    refuse_shared_weights,
    share_adapters,
)
from rlalign.policies.options import AdapterOptions

_INITIAL_RANK = 1.5
"""Initial rank of AdaLoRA as a multiple of the mean rank at the end, as in the paper's experiments."""


_MOST_NAMES = 12
"""Names of layers in a message."""


def add_adapter(lm: Any, adapter: AdapterOptions, seed: int) -> Any:
    """Return a peft model of `lm` with a new float32 adapter.

    At first the adapter changes nothing, except for virtual tokens: those of `prompt` are embeddings of tokens drawn
    from the vocabulary, and those of `prefix` the keys and values that the model computes for the same tokens.

    Low-rank adapters are on all linear layers but the head, except those that the model reads without calling them: an
    adapter there would have no effect on the model, and would change it when it is merged. Layers that share a weight
    share their adapter, so that the adapter can be merged into that weight. Stacked routed experts are adapted by
    lora and rslora (see `expert_parameters`).

    Args:
        lm: a transformers model.
        adapter: resolved options of a kind that is not none.
        seed: of the initial values.

    Raises:
        UserError: the architecture has no layer of these names, or does not allow this kind.
    """
    from peft import get_peft_model

    if adapter.is_virtual:
        refuse_for_virtual_tokens(lm, str(adapter.kind))
    config = _config(lm, adapter)
    try:
        with seeded(seed), hidden_peft_warnings():
            model = get_peft_model(lm, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise UserError(
            f"adapter.targets {adapter.targets}: expected layers of a {type(lm).__name__} that {adapter.kind} can "
            f"adapt, got an error of peft ({' '.join(str(error).split())[:300]}); use --model.adapter.targets "
            f"all-linear, or some of {', '.join(_layer_names(lm))}"
        ) from error
    if adapter.kind in ("lora", "rslora"):
        share_adapters(model)
    else:
        refuse_shared_weights(model, str(adapter.kind))
    use_float32_norms(model, initial=True)
    use_sums(model)
    if adapter.is_virtual:
        with seeded(seed):
            initialize_from_tokens(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _config(lm: Any, adapter: AdapterOptions) -> Any:
    """Return peft's configuration of an adapter."""
    from peft import AdaLoraConfig, IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    if adapter.kind == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.tokens)
    if adapter.kind == "prompt":
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.tokens)
    layers: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "target_modules": _targets(adapter),
        "exclude_modules": not_adaptable(lm) or None,
        "fan_in_fan_out": _has_conv1d(lm),  # GPT-2 stores its weights as [in, out]
    }
    if adapter.kind == "ia3":
        return IA3Config(**{**layers, **_ia3_layers(lm, adapter)})
    scale = {"lora_alpha": adapter.alpha, "lora_dropout": 0.0}
    if adapter.kind == "adalora":
        rank = adapter.r or 1
        # the schedule is set when the number of updates is known; see `rank_schedule`
        return AdaLoraConfig(**layers, **scale, init_r=math.ceil(_INITIAL_RANK * rank), target_r=rank, total_step=1)
    experts = expert_parameters(lm) if adapter.kind != "dora" and adapter.targets in ("auto", "all-linear") else []
    return LoraConfig(
        **layers,
        **scale,
        r=adapter.r or 1,
        use_rslora=adapter.kind == "rslora",
        use_dora=adapter.kind == "dora",
        target_parameters=experts or None,
    )


def _targets(adapter: AdapterOptions) -> str | list[str]:
    """Return peft's target_modules."""
    if adapter.targets in ("auto", "all-linear"):
        return "all-linear"
    return [name.strip() for name in adapter.targets.split(",")]


def _layer_names(lm: Any) -> list[str]:
    """Return the endings of the names of the model's linear layers but the output, in the order of the model."""
    output = lm.get_output_embeddings()
    layers = (name for name, module in lm.named_modules() if module is not output and _is_linear(module))
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))[:_MOST_NAMES]


def _is_linear(module: Any) -> bool:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Linear | Conv1D)


def _ia3_layers(lm: Any, adapter: AdapterOptions) -> dict[str, Any]:
    """Return the layers that IA3 scales, and those of them whose input is scaled in place of the output."""
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
    )
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    family = lm.config.model_type
    targets: str | list[str] = _targets(adapter)
    if adapter.targets == "auto" and family in TARGETS:
        targets = list(TARGETS[family])
    feedforward = list(FEEDFORWARD.get(family, ()))
    if not isinstance(targets, str):
        feedforward = [name for name in feedforward if name in targets]
    return {"target_modules": targets, "feedforward_modules": feedforward}


def _has_conv1d(lm: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in lm.modules())

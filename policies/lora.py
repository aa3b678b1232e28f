"""Adapters of weights in a causal policy: what can be adapted, merging, and replacing the weights under them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.dora import reset_magnitudes
from rlalign.policies.adapter_kinds.names import is_adapter_parameter
from rlalign.policies.options import AdapterOptions
from rlalign.policies.quantized_base import QuantizedLinear
from rlalign.policies.weight_dtype import float32_copy, restored_buffers

_FUSED_MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Model types whose CUDA kernel reads the weight of `out_proj` without calling the layer. peft refuses it there."""


def expert_parameters(lm: Any) -> list[str]:
    """Return the names of the stacked experts that can be adapted: float32 parameters of the shape [experts, in, out].

    peft adds the adapter to the parameter, and not to the output as for a linear layer. In bfloat16 the sum loses small
    updates, and the gradient is off by several times the rounding of the model: those experts stay frozen. Experts of
    the shape [experts · in, out] (DBRX) stay frozen too: the model reads more of the module that peft wraps.
    """
    return [name for name, p in _stacked_experts(lm).items() if p.dim() == 3 and p.dtype == torch.float32]


def _stacked_experts(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of routed experts of the shapes [experts, in, out] and [experts · in, out]."""
    linear = {id(p) for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".experts." in name and parameter.dim() in (2, 3) and "bias" not in name and id(parameter) not in linear
    }


def not_adaptable(lm: Any) -> list[str]:
    """Return the names of the linear layers of which the model does not use the output as nn.Linear computes it.

    It reads the weight without calling the layer, or the layer is linear by class only: routers of experts and grouped
    layers compute something else.
    """
    fused = [
        name
        for name, _ in lm.named_modules()
        if lm.config.model_type in _FUSED_MAMBA and name.rpartition(".")[2] == "out_proj"
    ]
    other = [n for n, module in lm.named_modules() if isinstance(module, nn.Linear) and not _is_linear(module)]
    return sorted({*fused, *other, *_bypassed(lm)})


@torch.no_grad()
def _is_linear(module: nn.Linear) -> bool:
    """Return True if a module of a subclass of nn.Linear computes what nn.Linear computes."""
    if type(module).forward is nn.Linear.forward:
        return True
    x = torch.linspace(-1, 1, 2 * module.in_features).view(2, -1).to(module.weight)
    try:
        return torch.allclose(module(x), nn.functional.linear(x, module.weight, module.bias), rtol=1e-2, atol=1e-4)
    except (RuntimeError, TypeError, ValueError):  # it takes other arguments or returns something else
        return False


@torch.no_grad()
def _bypassed(lm: Any) -> list[str]:
    """Return the names of the linear layers that are not called although their weights change the logits.

    An expert that no token is routed to is not called either. Its weights change nothing.
    """
    linears = {name: module for name, module in lm.named_modules() if isinstance(module, nn.Linear)}
    called: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in linears.values()]
    ids = torch.arange(3, device=next(lm.parameters()).device)[None] % lm.get_input_embeddings().weight.shape[0]
    try:
        with restored_buffers(lm):
            expected = lm(input_ids=ids, use_cache=False).logits
    except RuntimeError:  # it cannot compute in this dtype, for which the proof of its paths refuses it
        return []
    finally:
        for hook in hooks:
            hook.remove()
    called_weights = {id(module.weight) for module in called}
    suspects = [n for n, m in linears.items() if m not in called and id(m.weight) not in called_weights]

    def matters(names: list[str]) -> bool:
        # a zero that is expanded takes no memory
        zeros = {f"{n}.weight": linears[n].weight.new_zeros(()).expand_as(linears[n].weight) for n in names}
        logits = functional_call(lm, zeros, kwargs={"input_ids": ids, "use_cache": False}).logits
        return not torch.equal(logits, expected)

    # one pass for all of them first: a mixture has hundreds of experts without a token
    return [name for name in suspects if matters([name])] if suspects and matters(suspects) else []


def share_adapters(model: Any) -> None:
    """Give all layers of a peft model that share a base weight the adapter of the first of them, if theirs are equal.

    Without this, an architecture whose layers share weights (Zamba2) would have several adapters of one weight, which
    cannot be merged. New adapters are equal in effect, because their B is zero.
    """
    first: dict[int, Any] = {}
    for layer in _lora_linears(model):
        other = first.setdefault(id(layer.get_base_layer().weight), layer)
        if other is layer or layer.lora_A.keys() != other.lora_A.keys():
            continue
        if all(_same_effect(layer, other, name) for name in layer.lora_A):
            layer.lora_A, layer.lora_B = other.lora_A, other.lora_B


def refuse_shared_weights(model: Any, kind: str) -> None:
    """Raise UserError if two adapted layers of a peft model share a weight: their adapters could not both be merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    weights = [id(adapted_weight(layer)) for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    if len(set(weights)) < len(weights):
        raise UserError(
            f"adapter.kind {kind}: expected layers that each have a weight of their own, got "
            f"{type(model.get_base_model()).__name__}, whose layers share weights; use --model.adapter.kind lora"
        )


def _same_effect(a: Any, b: Any, name: str) -> bool:
    """Return True if two layers have equal adapters, or if the adapters of both add nothing."""
    equal = all(torch.equal(x[name].weight, y[name].weight) for x, y in ((a.lora_A, b.lora_A), (a.lora_B, b.lora_B)))
    return equal or not (a.lora_B[name].weight.any() or b.lora_B[name].weight.any())


def adapted_weight(layer: Any) -> Tensor:
    """Return the frozen weight that a layer of peft adapts."""
    name = getattr(layer, "parameter_name", "weight")  # of a layer that adapts a parameter of a module
    weight: Tensor = getattr(layer.get_base_layer(), name)
    return weight


def _lora_linears(model: Any) -> Iterator[Any]:
    from peft.tuners.lora import Linear

    return (module for module in model.modules() if isinstance(module, Linear))


def describe_adapter(model: Any, adapter: AdapterOptions) -> str:
    """Return the kind of a peft model's new adapter and the share of the parameters that it can change, as text.

    Linear layers and stacked experts that are not adapted are named: in some mixtures, the names of linear layers are
    those of the routed experts in an earlier version of the architecture, and peft adapts the experts only.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if adapter.is_virtual:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return f"{adapter.description}: {trained:,} trained parameters, and no weight of the model changes"
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    adapted = {id(p): p for p in map(adapted_weight, layers)}
    # the codes of a quantized weight are not as many as its elements
    quantized = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    base = {id(p): p.numel() for n, p in model.named_parameters() if not is_adapter_parameter(n)}
    base |= {id(m.weight): m.out_features * m.in_features for m in quantized} | {id(m.scale): 0 for m in quantized}
    share = sum(base[key] for key in adapted) / sum(base.values())
    head = model.get_output_embeddings()
    layers_of = {
        f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head
    }
    frozen = {
        ".".join(name.removesuffix(".weight").split(".")[-2:])
        for name, weight in (layers_of | _stacked_experts(model)).items()
        if id(weight) not in adapted and not is_adapter_parameter(name)
    }
    text = f"{adapter.description} adapts layers with {share:.0%} of the parameters"
    if frozen:
        text += f"; frozen: {', '.join(sorted(frozen))}"
    if any(id(p) in adapted and p.dtype != torch.float32 for p in _stacked_experts(model).values()):
        text += (
            "; adapters of routed experts are added to weights in a low precision, where small updates are rounded "
            "away: use --model.dtype float32 to keep them"
        )
    return text


@contextmanager
def hidden_peft_warnings() -> Iterator[None]:
    """Hide peft's warnings about matters that a user cannot change, or that are checked here."""
    with warnings.catch_warnings():
        # peft uses a deprecated attribute of transformers
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        # an error here
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        # peft says so for each layer whose adapter another layer's merge has applied already
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        # peft stores ranks for names of an earlier version of an architecture
        warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys did not match")
        # the exported model is compared with the policy
        warnings.filterwarnings("ignore", message=r"(?s).*tie_word_embeddings")
        yield


def merge_adapters(model: Any) -> Any:
    """Merge the adapters of a peft model in place, and return the transformers model without them.

    Args:
        model: a peft model in float32. In a lower precision the sum of weight and adapter would be rounded.
    """
    merged: dict[tuple[int, int], None] = {}
    with hidden_peft_warnings():
        for layer in _lora_linears(model):
            shared = (id(layer.get_base_layer().weight), id(layer.lora_A))
            if shared in merged:  # the shared adapter is in the shared weight already
                layer.merged_adapters.extend(layer.active_adapters)
            else:
                merged[shared] = None
                layer.merge()
        return model.merge_and_unload()


def merged_weights(body: nn.Module) -> dict[str, Tensor]:
    """Return float32 weights of a body with its adapters added, by the names that a body without adapters has."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = float32_copy(body)
    done: set[tuple[int, int]] = set()
    for module in merged.modules():
        if isinstance(module, BaseTunerLayer):
            shared = (id(adapted_weight(module)), id(getattr(module, "lora_A", module)))
            if shared not in done:
                done.add(shared)
                module.merge()
    weights: dict[str, Tensor] = {}
    for name, parameter in merged.named_parameters():
        if is_adapter_parameter(name) or ".original_module." in name:
            continue
        weights[_plain_name(name)] = parameter.detach().contiguous()
    return weights


def _plain_name(name: str) -> str:
    """Return the name that a parameter of a peft model has in the model without adapters."""
    # a list, because the wrappers of two parameters of one module are nested
    parts = name.replace(".modules_to_save.default.", ".").split(".")
    return ".".join(part for part in parts if part != "base_layer")


def replace_base_weights(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the result of `merged_weights` under the adapters of a body, which then shares no frozen weight any more.

    The weight of a quantized layer is quantized again, as that of a policy whose folder is loaded.
    """
    _replace_quantized(body, weights)
    for name, old in list(body.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        module = body.get_submodule(parent)
        if not is_adapter_parameter(name) and not isinstance(module, QuantizedLinear):
            # a new parameter: writing into the old one would change the other body that shares it
            setattr(module, leaf, nn.Parameter(weights[_plain_name(name)].to(old), requires_grad=old.requires_grad))
    reset_magnitudes(body)


def _replace_quantized(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put new layers in place of the quantized ones of a body, whose codes another body may share."""
    modules = body.named_modules(remove_duplicate=False)
    old = {name: layer for name, layer in modules if isinstance(layer, QuantizedLinear)}
    new: dict[int, QuantizedLinear] = {}  # layers that are in the body twice stay one, stored by their first name
    for name, layer in old.items():
        if id(layer) not in new:
            prefix = _plain_name(f"{name}.weight").removesuffix("weight")
            new[id(layer)] = layer.with_weights(weights[f"{prefix}weight"], weights.get(f"{prefix}bias"))
        parent, _, leaf = name.rpartition(".")
        setattr(body.get_submodule(parent), leaf, new[id(layer)])

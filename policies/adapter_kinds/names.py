"""The kind of a stored adapter, and the names of the parameters that belong to adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlalign.policies.options import AdapterOptions

_PARTS = ("lora_", "ia3_")
_METHODS = {"ADALORA": "adalora", "IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
VIRTUAL_METHODS = ("PREFIX_TUNING", "PROMPT_TUNING")
"""peft's names of the methods that add virtual tokens and change no weight."""


def is_adapter_parameter(name: str) -> bool:
    """Return True for the name of a parameter that peft adds to a layer.

    Example:
        >>> is_adapter_parameter("layers.0.q.lora_A.default.weight"), is_adapter_parameter("layers.0.q.weight")
        (True, False)
    """
    return any(part.startswith(_PARTS) for part in name.split("."))


def stored_options(settings: Mapping[str, Any]) -> AdapterOptions | None:
    """Return the options of a stored adapter; None for a kind that this library does not train.

    Args:
        settings: the content of adapter_config.json.
    """
    method = settings.get("peft_type")
    if method in VIRTUAL_METHODS:
        if settings.get("prefix_projection"):
            return None
        return AdapterOptions(_METHODS[method], tokens=int(settings["num_virtual_tokens"]))  # type: ignore[arg-type]
    if method == "IA3":
        return AdapterOptions("ia3")
    if method == "ADALORA":
        return AdapterOptions("adalora", r=max(1, int(settings.get("target_r") or 1)))
    if method != "LORA":
        return None
    rank = max(1, int(settings.get("r") or 1))
    if settings.get("use_dora"):
        return AdapterOptions("dora", r=rank)
    return AdapterOptions("rslora" if settings.get("use_rslora") else "lora", r=rank)

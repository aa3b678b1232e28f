"""The kind of a stored adapter, and the names of the parameters that belong to adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rlalign.policies.options import AdapterOptions

_PARTS = ("lora_", "ia3_")
_METHODS = {"ADALORA": "adalora", "IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
_PEFT_ALPHA = 8  # of LoRA in peft, for a configuration that does not name it
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
    targets = settings.get("target_modules") or "auto"
    layers = targets if isinstance(targets, str) else ",".join(sorted(targets))
    if method == "IA3":
        return AdapterOptions("ia3", targets=layers)
    alpha = max(1, int(settings.get("lora_alpha") or _PEFT_ALPHA))
    if method == "ADALORA":
        return AdapterOptions("adalora", r=max(1, int(settings.get("target_r") or 1)), alpha=alpha, targets=layers)
    if method != "LORA":
        return None
    kind: Literal["dora", "rslora", "lora"] = "rslora" if settings.get("use_rslora") else "lora"
    if settings.get("use_dora"):
        kind = "dora"
    return AdapterOptions(kind, r=max(1, int(settings.get("r") or 1)), alpha=alpha, targets=layers)


def requested_difference(stored: AdapterOptions, requested: AdapterOptions) -> str:
    """Return the first setting that requests another adapter than the stored one, such as "adapter.r 2"; "" if none.

    Without a kind and a rank nothing is requested. A setting at its default requests nothing either, and neither does
    one that the kind does not read; `all-linear` is not compared with the layers that peft stored.

    Args:
        stored: of `stored_options`.
        requested: as the user requests them.

    Example:
        >>> requested_difference(AdapterOptions("lora", r=8), AdapterOptions("lora", alpha=64))
        'adapter.alpha 64'
    """
    if requested.kind is None and requested.r is None:
        return ""
    if requested.kind not in (None, stored.kind):
        return f"adapter.kind {requested.kind}"
    if requested.r not in (None, stored.r) and (requested.kind is None or stored.is_low_rank):
        return f"adapter.r {requested.r}"
    default = AdapterOptions()
    if stored.is_virtual:
        return f"adapter.tokens {requested.tokens}" if requested.tokens not in (default.tokens, stored.tokens) else ""
    if stored.is_low_rank and requested.alpha not in (default.alpha, stored.alpha):
        return f"adapter.alpha {requested.alpha}"
    is_named = requested.targets not in ("auto", "all-linear")
    if is_named and _names(requested.targets) != _names(stored.targets):
        return f"adapter.targets {requested.targets}"
    return ""


def _names(targets: str) -> set[str]:
    return {name.strip() for name in targets.split(",")}

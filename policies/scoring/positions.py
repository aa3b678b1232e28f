"""Lengths at which a model computes positions or attention in another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_THRESHOLDS = ("window", "chunk", "block_size", "local_attention", "budget", "index_topk", "compress_rate")
"""Parts of the names of settings whose value is a number of tokens beyond which a model ignores or compresses some."""


def rotary_parameters(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the parameters of each kind of rotary embedding; models with several kinds of layers have several."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if not isinstance(parameters, dict):
        return
    yield from (parameters, *(entry for entry in parameters.values() if isinstance(entry, dict)))


def switch_length(config: Any) -> int | None:
    """Return the number of tokens beyond which `longrope` rotates all tokens of a context by other factors.

    The tokens up to that length and the tokens beyond it then need a forward pass each. None: no such switch.
    """
    lengths = [
        int(parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        for parameters in rotary_parameters(config)
        if parameters.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


def thresholds(config: Any) -> list[int]:
    """Return the lengths that a configuration names, ascending: windows, chunks, the switch of `longrope`."""
    found = {
        value
        for name, value in _settings(config)
        if isinstance(value, int)
        and value > 1
        and any(part in name for part in _THRESHOLDS)
        and not name.endswith("_layers")
    }
    switch = switch_length(config)
    if switch is not None:
        found.add(switch)
    return sorted(found)


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of a configuration, those inside it included."""
    for name, value in config.to_dict().items():
        yield name, value
        if isinstance(value, dict):
            yield from value.items()

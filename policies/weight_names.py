"""Comparison of the stored tensors of a model with the tensors that its class expects, without loading a weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.model_files import StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # the number of a layer or of an expert in a name


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Differences between the stored tensors and those of the model class.

    Attributes:
        missing: tensors of the model that no stored tensor fills: transformers would draw them at random.
        unexpected: stored tensors that the model does not have.
        mismatched: tensors whose stored shape is not the model's, as `name: stored [..], model [..]`.
        dropped: the part of `unexpected` that belongs to the model's computation: layers past the configured number, or
            a bias or a scale of a layer that the model has without it.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def compare_weights(model_class: Any, config: Any, stored: Mapping[str, StoredTensor]) -> tuple[WeightNames, Any]:
    """Load tensors without data into a model on the meta device, by transformers' own loader, and compare the names.

    The loader renames and merges tensors as it does for real weights (the experts of a mixture, for example), and
    leaves out the names that a class ignores on purpose.

    Args:
        model_class: a transformers model class.
        config: its configuration.
        stored: the stored tensors by name.

    Returns:
        The differences, and the model on the meta device; None in place of the model if the stored tensors do not form
        it.
    """
    empty = {
        name: torch.empty(t.shape, dtype=_DTYPES.get(t.dtype, torch.float32), device="meta")
        for name, t in stored.items()
    }
    try:
        with hidden_progress_bars(), hidden_warnings(), torch.device("meta"):
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=empty,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below instead of raised
            )
    except RuntimeError:
        # tensors that a conversion merges are incomplete; the loader does not return their names
        return WeightNames(missing=tuple(numbering_gaps(stored)) or ("tensors that the loader merges",)), None
    return loading_report(info, model), model


def loading_report(info: Mapping[str, Any], model: Any) -> WeightNames:
    """Return the differences that `from_pretrained` returns with `output_loading_info=True`.

    Args:
        info: the loading info.
        model: the loaded model.
    """
    mismatched = sorted(
        f"{name}: stored {list(found)}, model {list(expected)}" for name, found, expected in info["mismatched_keys"]
    )
    unexpected = sorted(info["unexpected_keys"])
    return WeightNames(
        missing=tuple(sorted(info["missing_keys"])),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        dropped=tuple(dropped_names(unexpected, model.state_dict())),
    )


def dropped_names(unexpected: Iterable[str], expected: Iterable[str]) -> list[str]:
    """Return the unexpected names that belong to the model's computation, so that the model would be another one.

    They have the name of an expected tensor but for its numbers, or their module has expected tensors. Buffers of old
    formats and heads of another task are neither.

    Example:
        >>> expected = ["layers.0.q.weight", "layers.1.q.weight", "norm.weight"]
        >>> unexpected = ["layers.2.q.weight", "layers.0.q.bias", "layers.0.rotary.inv_freq", "score.weight"]
        >>> dropped_names(unexpected, expected)
        ['layers.2.q.weight', 'layers.0.q.bias']
    """
    patterns = set()
    modules = set()
    for name in expected:
        patterns.add(_NUMBER.sub("*", name))
        modules.add(name.rpartition(".")[0])
    return [n for n in unexpected if _NUMBER.sub("*", n) in patterns or n.rpartition(".")[0] in modules]


def numbering_gaps(names: Mapping[str, Any]) -> list[str]:
    """Return the names that are missing in a numbering, such as expert 2 of layer 0 if experts 0, 1 and 3 exist.

    Example:
        >>> numbering_gaps({"layers.0.experts.0.w": 0, "layers.0.experts.1.w": 0, "layers.1.experts.1.w": 0})
        ['layers.1.experts.0.w']
    """
    by_pattern: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        pattern = _NUMBER.sub("{}", name.replace("{", "{{").replace("}", "}}"))
        by_pattern.setdefault(pattern, []).append(tuple(int(n) for n in _NUMBER.findall(name)))
    gaps = []
    for pattern, numbers in by_pattern.items():
        axes = [sorted(set(axis)) for axis in zip(*numbers, strict=True)]
        gaps += [pattern.format(*index) for index in product(*axes) if index not in set(numbers)] if axes else []
    return sorted(gaps)


@contextmanager
def hidden_warnings() -> Iterator[None]:
    """Hide transformers' reports below an error, which rlalign repeats in one line where they matter."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    try:
        yield
    finally:
        logging.set_verbosity(level)

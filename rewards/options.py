"""Options of a reward function: parameters that come from the spec alone, never from a column of the data."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

_SCALARS = (bool, int, float, str, re.Pattern, type(None))

PASSED = frozenset(
    {
        *("prompts", "completions", "completion_ids", "completions_raw", "state", "turns", "replies", "truncated"),
        *("group_ids", "log_metric", "log_extra", "trainer_state"),
    }
)
"""Keywords that every caller passes, here or in TRL, so never options."""


def options_of(parameters: Mapping[str, Parameter]) -> frozenset[str]:
    """Return the names of the parameters that are one value for all samples.

    A column is a list with one entry per sample, and an option is a plain value. So a parameter is an option if its
    default is a text, a number or a boolean. A keyword-only parameter is an option, too, if it has another default than
    None, or is annotated as a plain value.

    Args:
        parameters: name -> parameter of the signature.
    """
    return frozenset(name for name, p in parameters.items() if name not in PASSED and _is_option(p))


def _is_option(parameter: Parameter) -> bool:
    default = parameter.default
    if isinstance(default, bool | int | float | str):
        return True
    if parameter.kind is not Parameter.KEYWORD_ONLY:
        return False
    return (default is not parameter.empty and default is not None) or _is_plain(parameter.annotation)


def _is_plain(annotation: Any) -> bool:
    """Return whether an annotation permits texts, numbers, booleans and patterns only."""
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return all((typing.get_origin(member) or member) in _SCALARS for member in members)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)

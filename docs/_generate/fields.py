"""The fields of dataclasses of settings and arguments: type, default and the string below the field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional


@dataclass(frozen=True)
class Field:
    """A field of a dataclass.

    Attributes:
        name: its name.
        type: the resolved annotation, without tyro's markers.
        default: its default; `dataclasses.MISSING` if it has none.
        text: its description.
        positional: whether it is a positional argument.
        aliases: other flags of it, and the name that replaces its own.
    """

    name: str
    type: Any
    default: Any
    text: str
    positional: bool = False
    aliases: tuple[str, ...] = ()


def fields_of(cls: type) -> Iterator[Field]:
    """Yield the fields of a dataclass."""
    texts = strings_below(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        hint = hints[field.name]
        markers = getattr(hint, "__metadata__", ())
        aliases: list[str] = []
        name = field.name
        for marker in markers:
            name = getattr(marker, "name", None) or name
            aliases += getattr(marker, "aliases", None) or ()
        plain = hint.__origin__ if markers else hint
        positional = bool(set(markers) & set(Positional[int].__metadata__))
        yield Field(name, plain, default, texts.get(field.name, ""), positional, tuple(aliases))


def strings_below(cls: type) -> dict[str, str]:
    """Return field -> the string below it in the source."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    texts = {}
    for field, below in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts


def type_text(hint: Any) -> str:
    """Return a type as a user writes its values: `float`, `none / head / model`, `float or None`."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " / ".join(map(str, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if part is type(None) else type_text(part) for part in typing.get_args(hint))
    if origin is tuple:
        return f"{type_text(typing.get_args(hint)[0])}, several"
    return {"bool": "true / false", "Path": "path", "str": "text"}.get(hint.__name__, hint.__name__)


def default_text(value: Any) -> str:
    """Return a default as a user writes it; empty for a required value."""
    if value is dataclasses.MISSING:
        return ""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return str(value).lower()
    if value == ():
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

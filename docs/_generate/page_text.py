"""Markdown of the generated pages: heads, tables, and docstrings in Google sections."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def head(title: str, intro: str) -> list[str]:
    """Return the first lines of a page."""
    return [f"# {title}", "", "<!-- written by docs/_generate; do not edit -->", "", intro, ""]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table, with the bars inside cells escaped, and an empty line after it."""
    lines = [columns, ["---"] * len(columns), *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def code(text: object) -> str:
    """Return a text as inline code."""
    return f"`{text}`" if str(text) else ""


def paragraphs(item: Any) -> list[str]:
    """Return the paragraphs of an object's docstring, each on one line, up to the first Google section."""
    docstring = inspect.cleandoc(item.__doc__ or "")
    return [" ".join(p.split()) for p in re.split(r"\n(?:Args|Attributes|Raises|Example):", docstring)[0].split("\n\n")]


def labeled(item: Any, labels: Sequence[str]) -> dict[str, str]:
    """Return the labeled sentences of an object's docstring, such as `Data: generated here.`, by label."""
    docstring = re.split(r"\n(?:Args|Raises|Example):", inspect.cleandoc(item.__doc__ or ""))[0]
    found = re.findall(rf"^({'|'.join(labels)}):\s*(.*?)(?=^\w[\w ]*(?::|\.$)|\Z|\n\n)", docstring, flags=re.M | re.S)
    return {label: " ".join(text.split()) for label, text in found}


def arguments(item: Any) -> dict[str, str]:
    """Return parameter -> description of the section Args of an object's docstring."""
    docstring = inspect.cleandoc(item.__doc__ or "")
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, flags=re.M | re.S)
    entries = re.findall(r"^    ([\w, ]+): (.*?)(?=^    \S|\Z)", section[1] if section else "", flags=re.M | re.S)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}


def parameter_rows(described: Mapping[str, str], signature: inspect.Signature) -> list[list[str]]:
    """Return name, default and description of the keyword parameters of a signature that have a description."""
    rows = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name not in described:
            continue
        default = "required" if parameter.default is inspect.Parameter.empty else code(repr(parameter.default))
        rows.append([code(name), default, sentence(described[name])])
    return rows


def sentence(text: str) -> str:
    """Return a description with a capital letter and a full stop; a first word that is a name stays as it is."""
    if not text:
        return ""
    is_name = any(mark in text.split()[0] for mark in "/_`")
    return (text[:1] if is_name else text[:1].upper()) + text[1:].rstrip(".") + "."

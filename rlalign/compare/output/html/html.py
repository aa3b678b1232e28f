"""HTML that cannot be broken out of: text becomes markup here and nowhere else."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

LONGEST = 1200  # characters of a completion that are shown


class Html(str):
    """Markup. A plain str is text, and is escaped wherever it is put."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. Attribute names take `_` for `-`, and a `_` at the end where Python owns the word."""
    return Html(f"<{name}{_attributes(attributes)}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children one after the other: Html as it is, iterables one by one, None left out, all else escaped."""
    return Html("".join(_child(c) for c in children))


def visible(text: str) -> str:
    """A text of a model, with control characters made visible and not endless."""
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " […]"
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else _shown(c) for c in cut)


def _shown(char: str) -> str:
    code = ord(char)
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):
        return html.escape(child)
    return joined(child) if isinstance(child, Iterable) else html.escape(str(child))


def _attributes(attributes: dict[str, object]) -> str:
    pairs = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None and v is not False)
    return "".join(f' {k}="{html.escape(str(v), quote=True)}"' for k, v in pairs)

"""HTML elements with escaped text: the one module that turns text into markup, so that no text can add markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_TEXT = 1200  # characters of a completion that are shown


class Html(str):
    """Markup. A plain str is text and is escaped on insertion."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: see `joined`.
        attributes: `_` in a name stands for `-`; a `_` at the end is removed (`class_`, `id_`). An attribute that is
            None or False is left out.
    """
    return Html(f"<{name}{_attributes(attributes)}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Return children in order: Html unchanged, iterables item by item, None left out, everything else escaped."""
    return Html("".join(_child(child) for child in children))


def visible(text: str) -> str:
    """Return a text of a model with visible control characters, cut to MAX_TEXT characters."""
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " […]"
    # category C: control characters, and format characters such as those that reverse the writing direction
    return "".join(_symbol(c) if c != "\n" and unicodedata.category(c)[0] == "C" else c for c in cut)


def _text(text: str) -> str:
    """Return escaped text; a control character or lone surrogate, which HTML and UTF-8 do not have, as a symbol."""
    return html.escape(_CONTROLS.sub(lambda match: _symbol(match.group()), text), quote=True)


def _symbol(char: str) -> str:
    """Return the picture of an ASCII control character (U+2400 and above), or the replacement character."""
    code = ord(char)
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):  # before Iterable, which a str is too
        return _text(child)
    return joined(child) if isinstance(child, Iterable) else _text(str(child))


def _attributes(attributes: dict[str, object]) -> str:
    parts = []
    for key, value in attributes.items():
        if value is not None and value is not False:
            name = key.rstrip("_").replace("_", "-")
            parts.append(f' {name}="{_text(str(value))}"')
    return "".join(parts)

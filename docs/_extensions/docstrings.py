"""Docstrings of this project as Sphinx expects them.

The string below a field may contain a colon (`Prompts per step; 0: all`): napoleon would read the words before it as a
type. Signatures show no internal names of defaults and type aliases.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring


def _inline_attribute(docstring: GoogleDocstring) -> tuple[str, list[str]]:
    """Return no type and all lines, instead of a type and the lines after the first colon."""
    return "", docstring._dedent(docstring._consume_to_end())


def _clean(text: str | None) -> str | None:
    """Return a signature or an annotation without the names that only Python needs."""
    if text is None:
        return None
    text = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)
    return text.replace("<factory>", "...").replace("~", "")


def _signature(
    app: Sphinx, kind: str, name: str, item: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Return the cleaned signature and return annotation of an object."""
    return _clean(signature), _clean(returns)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the changes."""
    GoogleDocstring._consume_inline_attribute = _inline_attribute  # type: ignore[method-assign]  # no option exists
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

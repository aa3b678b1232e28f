r"""Texts in Markdown: code spans, code blocks and escaped prose, none of which can add markup, links or HTML."""

from __future__ import annotations

import re

from rlalign.escaping.terminal import in_one_line, visible

# Marks that can begin markup inside of a line, and the dot and colon of addresses, which GitHub and the Hub make links.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~$&@!]|:(?=//)|(?<=www)\.)", flags=re.IGNORECASE)


def plain(text: str) -> str:
    r"""Return a text as prose in one line: each mark that could begin markup or a link has a backslash.

    The text must not stand at the beginning of a line, where a hyphen or a number begins a list.

    Example:
        >>> plain("[a](b) <i>, http://x")
        '\\[a\\](b) \\<i\\>, http\\://x'
    """
    return _MARKUP.sub(r"\\\1", in_one_line(text))


def with_code(text: str) -> str:
    r"""Return a text as prose (see `plain`) whose parts between backticks are code spans.

    Example:
        >>> with_code("see `a.b`, [c](d) and ``e``")
        'see `a.b`, \\[c\\](d) and `e`'
    """
    parts = re.split(r"(`+)(.+?)\1(?!`)", in_one_line(text))  # prose, fence, code, prose, ...
    return "".join(code(part) if i % 3 == 2 else plain(part) for i, part in enumerate(parts) if i % 3 != 1)


def code(text: str, *, in_table: bool = False) -> str:
    """Return a text as a code span.

    Args:
        text: any text.
        in_table: the span stands in a table, whose bars end cells also within code.

    Example:
        >>> code("a`b"), code("x|y"), code("x|y", in_table=True), code("")
        ('`` a`b ``', '`x|y`', '`x\\\\|y`', '')
    """
    line = in_one_line(text).replace("\t", " ")
    line = line.replace("|", "\\|") if in_table else line
    if not line.strip():
        return ""
    if "`" not in line:
        return f"`{line}`"
    fence = "`" * (_longest_run(line) + 1)
    return f"{fence} {line} {fence}"


def block(text: str, language: str = "text") -> str:
    """Return a text as a code block, whose fence is longer than any in the text."""
    shown = visible(text)
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)

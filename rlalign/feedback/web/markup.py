"""Markdown and LaTeX of untrusted texts as sanitized HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import nh3
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

_MAX_FORMULA = 2000
"""Longest formula that is converted, in characters. The converter is recursive and slow on long inputs."""

_MATH_CHILDREN = {
    "mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3,
}  # fmt: skip
"""MathML element -> the number of children that it requires. The converter returns fewer for unfinished LaTeX."""

_MATH_TAGS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msqrt", "mstyle", "mpadded", "mphantom", "menclose",
    "mtable", "mtr", "mtd", *_MATH_CHILDREN,
}  # fmt: skip
_MATH_ATTRIBUTES = {
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "separator", "lspace", "rspace", "minsize", "maxsize", "movablelimits"},
    "mi": {"mathvariant"},
    "mfrac": {"linethickness"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"columnalign"},
    "mtd": {"columnalign"},
}

_TAGS = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "code", "pre", "blockquote", "ul", "ol", "li",
    "a", "table", "thead", "tbody", "tr", "th", "td", *_MATH_TAGS,
}  # fmt: skip
# `rel` of links is set by nh3 itself. Code and formulas are left to right in every language, and `dir` also keeps
# them from deciding the direction of an element with dir="auto" around them.
_CLEANER = nh3.Cleaner(
    tags=_TAGS,
    attributes={"a": {"href", "title"}, "ol": {"start"}, **_MATH_ATTRIBUTES},
    tag_attribute_values={tag: {"align": {"left", "center", "right"}} for tag in ("th", "td")},
    set_tag_attribute_values={
        "a": {"target": "_blank"},
        "pre": {"dir": "ltr"},
        "code": {"dir": "ltr"},
        "math": {"dir": "ltr"},
    },
    link_rel="nofollow noopener noreferrer",
    url_schemes={"http", "https"},
    url_relative="deny",
    allowed_classes={},
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
"""Opening and closing delimiters, longest first. The last pair has the conditions of `_is_price`."""


def to_html(text: str, *, top_heading: int = 3) -> str:
    """Return Markdown with LaTeX formulas as sanitized HTML; return escaped text in <pre> if that fails.

    Line breaks are kept, as in chat interfaces. Images stay as their Markdown source.

    Args:
        text: of a prompt, a completion, guidelines or a consent form.
        top_heading: level of the highest heading in `text`, 1 to 6; lower headings follow without gaps, so that
            the headings of a completion stay below the headings of the page.
    """
    text = _SURROGATE.sub("\ufffd", text)
    try:
        tokens = _MARKDOWN.parse(text)
        _set_heading_levels(tokens, top_heading)
        _set_cell_alignment(tokens)
        return _CLEANER.clean(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
    except Exception:
        # Texts come from models and are unbounded, and one of them must not take the page away from an annotator.
        return f'<pre dir="ltr">{html.escape(text)}</pre>'


def formula_to_mathml(latex: str, *, block: bool) -> str | None:
    """Return a LaTeX formula as MathML, or None if it is empty, too long or not understood by the converter."""
    if not latex.strip() or len(latex) > _MAX_FORMULA:
        return None
    try:
        return _serialize(convert_to_element(latex.strip(), display="block" if block else "inline"))
    except Exception:  # the converter raises its own errors, IndexError and RecursionError among others
        return None


def _serialize(element: Element) -> str:
    """Return a MathML element as text; raise ValueError if it is incomplete or holds an unknown command.

    The converter's own serializer does not escape the contents of \\text{...}.
    """
    children = list(element)
    if len(children) != _MATH_CHILDREN.get(element.tag, len(children)):
        raise ValueError(f"expected {_MATH_CHILDREN[element.tag]} children in <{element.tag}>, got {len(children)}")
    text = html.unescape(element.text or "")
    if element.tag in ("mi", "mo") and text.startswith("\\") and len(text) > 1:
        raise ValueError(f"expected a LaTeX command that MathML can express, got {text}")
    allowed = _MATH_ATTRIBUTES.get(element.tag, set())
    attributes = "".join(f' {key}="{html.escape(value)}"' for key, value in element.items() if key in allowed)
    content = html.escape(text, quote=False) + "".join(_serialize(child) for child in children)
    return f"<{element.tag}{attributes}>{content}</{element.tag}>"


def _is_price(source: str, start: int, end: int) -> bool:
    """Return whether `$...$` at source[start:end] is no formula: prices, shell variables, code.

    The rules are those of Pandoc (no space inside the dollar signs, no digit after them), with two additions:
    letters and braces next to the signs, as in `US$5` and `$A/$B`, and an amount that is followed by words.
    """
    content = source[start + 1 : end - 1]
    before, after = source[start - 1 : start], source[end : end + 1]
    if not content or content[0].isspace() or content[-1].isspace() or "`" in content or "$" in content:
        return True
    if (before.isascii() and before.isalnum()) or after.isdigit() or re.match(r"[A-Z_{$]", after):
        return True
    return re.match(r"\d[\d.,]*[kKmM]?[\s,;]+[A-Za-z]{2,}", content) is not None and not re.search(r"[\\^_=]", content)


def _find_formula(source: str, start: int, opening: str, closing: str) -> int:
    """Return the end of the formula that opens at `start`, or -1; formulas do not contain blank lines."""
    position = start + len(opening)
    limit = position + _MAX_FORMULA  # also keeps texts with many opening delimiters from taking quadratic time
    while (position := source.find(closing, position, limit)) >= 0:
        content = source[start + len(opening) : position]
        # An odd number of backslashes escapes a dollar sign. `\\]` is a line break before a bracket.
        if (len(content) - len(content.rstrip("\\"))) % 2 == 0:
            return -1 if re.search(r"\n[ \t]*\n", content) else position + len(closing)
        position += 1
    return -1


def _inline_formula(state: StateInline, silent: bool) -> bool:
    """Parse a formula inside a paragraph: a rule of markdown-it."""
    for opening, closing in _DELIMITERS:
        if not state.src.startswith(opening, state.pos):
            continue
        end = _find_formula(state.src, state.pos, opening, closing)
        if end < 0 or end > state.posMax:
            continue
        if opening == "$" and _is_price(state.src, state.pos, end):
            continue
        if not silent:
            source = state.src[state.pos : end]
            token = state.push("formula", "math", 0)
            token.content = source
            block = opening in ("$$", "\\[")
            token.meta["mathml"] = formula_to_mathml(source[len(opening) : -len(closing)], block=block)
        state.pos = end
        return True
    return False


def _block_formula(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """Parse a formula on lines of its own: a rule of markdown-it.

    Without it, a line of the formula that begins with "-" or "=" would become a list or a heading.
    """
    start = state.bMarks[first] + state.tShift[first]
    if state.is_code_block(first) or not state.src.startswith(("$$", "\\["), start):
        return False
    opening, closing = _DELIMITERS[0] if state.src.startswith("$$", start) else _DELIMITERS[1]
    for line in range(first, last):
        if line > first and (state.isEmpty(line) or state.sCount[line] < state.blkIndent):
            return False
        # getLines removes the markers of block quotes and the indentation of lists.
        source = state.getLines(first, line + 1, state.blkIndent, False).strip()
        if len(source) > _MAX_FORMULA:
            return False
        end = _find_formula(source, 0, opening, closing)
        if end >= 0:
            break
    else:
        return False
    if end < len(source):  # a formula inside a paragraph, with text after it
        return False
    if not silent:
        token = state.push("formula_block", "math", 0)
        token.content = source
        token.meta["mathml"] = formula_to_mathml(source[2:-2], block=True)
        token.map = [first, line + 1]
    state.line = line + 1
    return True


def _render_formula(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """Return the MathML of a formula, or its source if the conversion failed."""
    token = tokens[index]
    rendered: str = token.meta["mathml"] or html.escape(token.content, quote=False).replace("\n", "<br>\n")
    return f"<p>{rendered}</p>\n" if token.type == "formula_block" else rendered


def _render_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """Return the Markdown source of an image: loading it would tell another host about the annotator."""
    token = tokens[index]
    return html.escape(f"![{token.content}]({token.attrGet('src') or ''})", quote=False)


def _set_heading_levels(tokens: Sequence[Token], top: int) -> None:
    """Renumber the headings in place: the highest level in use becomes `top`, the next one `top` + 1."""
    levels = sorted({token.tag for token in tokens if token.type == "heading_open"})
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, top + levels.index(token.tag))}"


def _set_cell_alignment(tokens: Sequence[Token]) -> None:
    """Replace the style attribute of table cells by `align`, which the Content-Security-Policy permits."""
    for token in tokens:
        style = token.attrs.pop("style", None) if token.type in ("th_open", "td_open") else None
        if style is not None:
            token.attrs["align"] = str(style).removeprefix("text-align:")


def _build_parser() -> MarkdownIt:
    """Return the Markdown parser with formulas, without HTML and without automatic links."""
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}).enable("table")
    # Before "escape", since `\(` and `\[` are escaped brackets in Markdown.
    parser.inline.ruler.before("escape", "formula", _inline_formula)
    alternatives: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    parser.block.ruler.before("fence", "formula_block", _block_formula, alternatives)
    for name in ("formula", "formula_block"):
        parser.add_render_rule(name, _render_formula)
    parser.add_render_rule("image", _render_image)
    return parser


_MARKDOWN = _build_parser()

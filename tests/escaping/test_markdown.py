"""Texts in Markdown stay texts."""

from __future__ import annotations

import re

import pytest

from rlalign.escaping.markdown import block, code, plain, with_code

TEXTS = [
    "`a`", "``", "a`` ` b", "<b>x</b>", "[a](http://b)", "![a](b)", "http://a.b", "www.a.b", "a@b.c", "*a* _b_",
    "~~a~~", "a\nb", "\x1b[31m", "```\nx\n```", "&lt;", "$x$", "\\", "a|b", " ` ",
]  # fmt: skip


def rendered(text: str) -> list[tuple[str, str]]:
    """Return type and content of the inline tokens of a text."""
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(text)
    return [(t.type, t.content) for token in tokens for t in ([token] if token.children is None else token.children)]


@pytest.mark.parametrize("text", TEXTS)
def test_prose_is_text_alone(text: str) -> None:
    inline = [kind for kind, _ in rendered(f"x {plain(text)}") if not kind.startswith("paragraph")]
    assert set(inline) <= {"text", "text_special"}
    shown = "".join(content for kind, content in rendered(f"x {plain(text)}") if kind.startswith("text"))
    assert not re.search(r"(?<!\\)://|www\.", plain(text))  # the Hub makes links of bare addresses
    assert shown.removeprefix("x ").strip() == text.replace("\n", "\\n").replace("\x1b", "\\x1b").strip()


@pytest.mark.parametrize("text", TEXTS)
def test_a_code_span_is_one_span_with_the_text(text: str) -> None:
    spans = [content for kind, content in rendered(f"x {code(text)} y") if kind == "code_inline"]
    assert [span.strip() for span in spans] == [text.replace("\n", "\\n").replace("\x1b", "\\x1b").strip()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_block_holds_the_text_and_ends_behind_it(text: str) -> None:
    tokens = rendered(f"{block(text)}\n\nafter")
    assert tokens[0] == ("fence", text.replace("\x1b", "\\x1b") + "\n")
    assert ("text", "after") in tokens


def test_a_code_span_in_a_table_keeps_its_cell() -> None:
    cells = [
        content for kind, content in rendered(f"| a |\n| --- |\n| {code('x|y', in_table=True)} |\n") if "code" in kind
    ]
    assert cells == ["x|y"]


def test_parts_between_backticks_are_code_and_the_rest_is_text() -> None:
    inline = rendered(with_code("x `a.b` <b> ``c`` [d](http://e) `f"))
    assert [content for kind, content in inline if kind == "code_inline"] == ["a.b", "c"]
    assert {kind for kind, _ in inline if not kind.startswith("paragraph")} <= {"text", "text_special", "code_inline"}

"""Markdown and LaTeX as HTML: what is drawn, what is removed, and texts that must not break the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlalign.feedback.web.markup import formula_to_mathml, to_html


class _Elements(HTMLParser):
    """Elements and attributes of an HTML text, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<style>*{display:none}</style>",
    '<iframe src="//e.example"></iframe>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](//e.example/a)",
    "[x](/withdraw)",
    "<javascript:alert(1)>",
    "![x](https://e.example/pixel.png)",
    "![x][r]\n\n[r]: https://e.example/pixel.png 'a\" onerror=alert(1)'",
    '[x](https://e.example "a\\" onmouseover=alert(1) b")',
    "```html\n<script>alert(1)</script>\n```",
    '```" onload="alert(1)\nx\n```',
    r"$\text{<img src=x onerror=alert(1)>}$",
    r"$$\text{</math><script>alert(1)</script>}$$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\style{color:red}{x} \class{a}{b} \id{c}{d}$",
    r"$\color{red\" onclick=\"alert(1)}{x}$",
    r"\(\mathrm{</mtext><style><img src=x onerror=alert(1)></style>}\)",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "&lt;script&gt;&#60;script&#62;",
    "|<b>|\n|-|\n|<form action=/withdraw>|",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_no_active_content(text: str) -> None:
    elements = _Elements(to_html(text))
    assert not elements.tags & {"script", "style", "img", "svg", "iframe", "form", "input", "object", "embed", "base"}
    for tag, name, value in elements.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("style", "src", "id", "class"), (tag, name)
        if name == "href":
            assert tag == "a"
            assert value.startswith(("http://", "https://"))


def test_links_open_apart_and_pass_nothing_on() -> None:
    html = to_html("[x](https://e.example/a?b=1&c=2)")
    assert 'href="https://e.example/a?b=1&amp;c=2"' in html
    assert 'target="_blank"' in html
    assert 'rel="nofollow noopener noreferrer"' in html
    assert "<a" not in to_html("https://e.example is not linked")


def test_images_stay_as_their_source() -> None:
    assert to_html("![a <b>](https://e.example/p.png)") == "<p>![a &lt;b&gt;](https://e.example/p.png)</p>\n"


def test_markdown() -> None:
    html = to_html("**b** *i* `c`\nnext\n\n- x\n\n3. y\n\n> q\n\n| a | b |\n|:-:|--:|\n| 1 | 2 |")
    for part in ("<strong>b</strong>", "<em>i</em>", '<code dir="ltr">c</code><br>', "<li>x</li>", '<ol start="3">'):
        assert part in html
    assert '<th align="center">a</th>' in html
    assert '<td align="right">2</td>' in html


def test_code_is_kept_to_the_letter() -> None:
    html = to_html("```python\nx = '$y$'  # <b> & \\(z\\)\n```")
    assert '<pre dir="ltr"><code dir="ltr">x = \'$y$\'  # &lt;b&gt; &amp; \\(z\\)\n</code></pre>' in html


@pytest.mark.parametrize(
    ("text", "top", "levels"),
    [
        ("# a\n\n### b\n\n###### c", 3, [3, 4, 5]),
        ("### a\n\n# b", 3, [4, 3]),
        ("# a\n\n## b", 2, [2, 3]),
        ("# a\n## b\n### c\n#### d\n##### e", 3, [3, 4, 5, 6, 6]),
    ],
)
def test_headings_stay_below_those_of_the_page(text: str, top: int, levels: list[int]) -> None:
    assert [int(level) for level in re.findall(r"<h(\d)>", to_html(text, top_heading=top))] == levels


@pytest.mark.parametrize(
    "text",
    [
        "$x$",
        "$$x$$",
        r"\(x\)",
        r"\[x\]",
        "so $x$, and",
        "设$x$为",
        "the $x$th",
        "($x$)",
        "**$x$**",
        "| $x$ |\n|-|",
        "- a\n\n  $$x$$",
        "> \\[\n> x\n> \\]",
        "Hence:\n$$\nx\n$$\nend",
        "$$x$$ and text",
    ],
)
def test_formulas(text: str) -> None:
    html = to_html(text)
    assert html.count("<math") == 1
    assert "<mi>x</mi>" in html
    assert "$" not in html
    assert "\\" not in html


@pytest.mark.parametrize(
    "text",
    [
        "it costs $5 and $6",
        "$5",
        "from $5-$6",
        "$20, she paid 30$",
        "US$5 or A$6",
        "$HOME/$PATH and ${x}/${y}",
        r"\$x\$",
        "`$x$`",
        "$a `b$`",
        "    $x$",
        "```\n$x$\n```",
        "$ x $",
        "$x\n\ny$",
        "$",
        "$$",
        "$$$$",
        r"\(",
        r"\[\]",
    ],
)
def test_no_formulas(text: str) -> None:
    assert "<math" not in to_html(text)


def test_lines_of_a_formula_are_no_lists_or_headings() -> None:
    html = to_html("$$\na\n- b\n= c\n$$")
    assert _Elements(html).tags == {"p", "math", "mrow", "mi", "mo"}
    assert 'display="block"' in html


@pytest.mark.parametrize(
    "latex", [r"\frac{a", r"\unknowncommand x", r"\begin{x}", "{" * 3000, "x" * 2001, " ", r"\left("]
)
def test_a_formula_that_fails_stays_as_text(latex: str) -> None:
    assert formula_to_mathml(latex, block=False) is None
    assert "<math" not in to_html(f"a ${latex.strip()}$ b")


def test_a_failed_formula_keeps_its_source() -> None:
    assert to_html(r"a $\foo_1 *b* c_2$ d") == "<p>a $\\foo_1 *b* c_2$ d</p>\n"


def test_common_formulas_are_converted() -> None:
    for latex in (
        r"\frac{1}{2} \le \sqrt[3]{x_1^2}",
        r"\sum_{i=1}^n i \cdot \int_0^1 f(x)\,dx",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\left( \hat{y} \right) \text{ if } \mathbb{R}",
        r"a < b \& c > d",
    ):
        assert formula_to_mathml(latex, block=True) is not None, latex


def test_texts_that_cannot_be_encoded() -> None:
    to_html("\ud800 \x00 \u202e $\ud800$").encode()


def test_an_error_gives_the_escaped_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlalign.feedback.web.markup._MARKDOWN", None)
    assert to_html("<b>") == '<pre dir="ltr">&lt;b&gt;</pre>'


@pytest.mark.parametrize(
    "text",
    [
        "$$" * 20000,
        "$a" * 20000,
        r"\(" * 20000,
        "[" * 5000,
        ">" * 20000,
        "*a_" * 5000,
        "\\" * 20000,
        "|a" * 5000 + "\n" + "|-" * 5000,
    ],
    ids=lambda text: text[:3],
)
def test_hostile_texts_end(text: str) -> None:
    to_html(text)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from("ab1 \n$\\()[]{}^_*`#>-|<&\"'=/:!中ש\ud800"), max_size=60))
def test_any_text_is_rendered_without_active_content(text: str) -> None:
    test_no_active_content(text)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(ATTACKS), min_size=2, max_size=4), st.sampled_from(["", " ", "\n", "\n\n", "$", "`"]))
def test_joined_attacks(parts: list[str], separator: str) -> None:
    test_no_active_content(separator.join(parts))

"""The console on which no text is markup, and its use by all of the package."""

import ast
import io
import sys
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from rlalign.escaping.console import PlainConsole, line

ROOT = Path(__file__).parents[2]

HOSTILE = [
    r"\[x^2\]",
    r"\[/b]",
    "[/b]",
    "[bold red]loud[/]",
    "[link=http://example.org]click[/link]",
    "[not closed",
    "\\",
    ":smile:",
    "a[0]",
]


def printed(monkeypatch, show, encoding="utf-8"):
    """Return what `show` prints to a stdout of an encoding, which refuses other characters."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        show(PlainConsole(width=100))
        stream.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("text", HOSTILE)
def test_each_text_is_printed_as_it_is(monkeypatch, text):
    def show(console):
        console.print(text, soft_wrap=True)
        console.print(f"\n{text}")
        console.print(line((text, "bold"), f": {text}"))
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text)
        console.print(table)

    assert printed(monkeypatch, show).count(text) == 7


def test_no_control_sequence_reaches_the_terminal(monkeypatch):
    def show(console):
        table = Table("\x1b[2J", title="\x9b2J")
        table.add_row("\x1b]0;title\x07", "\rover")
        console.print(table, line(("\x1b[31m", "red")), "\x1b[0m\x00\u202e")

    output = printed(monkeypatch, show)
    assert not set(output) & set("\x1b\x9b\x07\r\x00\u202e")
    for escaped in (r"\x1b[2J", r"\x9b2J", r"\x1b]0;title\x07", r"\rover", r"\x1b[31m", r"\x1b[0m\x00\u202e"):
        assert escaped in output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_output_cannot_encode_is_escaped(monkeypatch, encoding):
    table = Table(title="±")
    table.add_row("你好 \ud800")
    output = printed(monkeypatch, lambda console: console.print(table, line("– \udfff")), encoding)
    assert r"\ud800" in output
    assert r"\udfff" in output
    assert ("你好" if encoding == "utf-8" else r"\u4f60\u597d") in output


def test_styles_of_lines_remain():
    assert [(span.start, span.end, span.style) for span in line("a ", ("b", "red"), " c").spans] == [(2, 3, "red")]


def test_the_only_rich_console_and_print_of_the_package_are_these():
    """A new module that prints must print through this border. Texts of the project itself are exempt."""
    exempt = {
        "rlalign/oracle/__main__.py",
        "rlalign/assets.py",
        "rlalign/checks/tasks.py",  # a program for another process, in a text
        "rewards/builtin/sentiment_models.py",
    }
    offenders = []
    for folder in ("rlalign", "envs", "policies", "rewards"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if any(parent.is_symlink() for parent in path.parents) or "escaping/" in name or name in exempt:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                imported = node.module if isinstance(node, ast.ImportFrom) else ""
                called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                if imported in ("rich.console", "rich.markup", "rich") or called == "print":
                    offenders.append(f"{name}:{node.lineno}")
                if called == "TextColumn" and "markup" not in [keyword.arg for keyword in node.keywords]:
                    offenders.append(f"{name}:{node.lineno}")
    assert offenders == []


def test_a_progress_line_shows_markup_as_text():
    file = io.StringIO()
    console = PlainConsole(width=60)
    console.file = file
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task("[/b]cell")
    assert "[/b]cell" in file.getvalue()

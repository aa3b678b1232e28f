"""Visible control characters, and output in any encoding."""

import ast
import io
import json
import sys

import pytest

from rlalign import cli
from rlalign.errors import UserError
from rlalign.escaping.terminal import print_json, print_text, visible


@pytest.mark.parametrize("code", [*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x202E, 0x2066, 0xD800, 0xDFFF])
def test_no_control_character_stays(code):
    text = visible(f"a{chr(code)}b")
    assert chr(code) not in text
    assert ast.literal_eval(f'"{text}"') == f"a{chr(code)}b"  # the escape is the one of Python


def test_other_characters_stay():
    text = "line\nfeed\ttab é 你好 👩\u200d🚀 עברית \\x1b"
    assert visible(text) is text or visible(text) == text


def test_a_text_is_printed_in_any_encoding(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii", errors="strict"))
    print_text("é\x1b[31m\ud800")
    sys.stdout.flush()
    assert buffer.getvalue() == b"\\xe9\\x1b[31m\\ud800\n"


def test_printed_json_reads_the_same(capsys):
    value = {"text": "\x9b2J\x7f\u202eé\ud800\x1b\n", "n": [1.5, None]}
    print_json(value)
    output = capsys.readouterr().out
    assert json.loads(output) == value
    assert "é" in output
    assert visible(output) == output


def test_errors_and_warnings_of_a_command_have_no_control_sequence(monkeypatch, capsys):
    def fail(_):
        raise UserError("expected a name, got '\x1b[31m[/b]\r'; use another")

    monkeypatch.setattr("rlalign.cli.listing.run", fail)
    assert cli.main(["list"]) == 2
    assert capsys.readouterr().err == "rlalign: expected a name, got '\\x1b[31m[/b]\\r'; use another\n"
    assert cli._one_line("reward '\x1b[2J' failed") == "warning: reward '\\x1b[2J' failed\n"

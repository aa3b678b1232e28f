"""Texts of the feedback pages: both languages, every key that the templates use, and Accept-Language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rlalign.feedback.web.words as module
from rlalign.feedback.web.words import LANGUAGES, choose_language, words

WEB = Path(module.__file__).parent
TEMPLATES = sorted((WEB / "templates").glob("*.html"))


def test_both_languages_have_the_same_keys_and_no_empty_text() -> None:
    assert LANGUAGES == ("en", "zh")
    assert words("en").keys() == words("zh").keys()
    for language in LANGUAGES:
        assert all(text.strip() for text in words(language).values())


def test_chinese_texts_are_chinese_and_english_texts_are_not() -> None:
    chinese = re.compile("[\u4e00-\u9fff]")
    for key in words("en").keys() - {"language_en", "language_zh"}:
        assert chinese.search(words("zh")[key]), key
        assert not chinese.search(words("en")[key]), key


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(KeyError):
        words("fr")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_use_texts_that_exist(path: Path) -> None:
    used = set(re.findall(r"\bw\.(\w+)\b(?!\()", path.read_text(encoding="utf-8")))
    assert used <= words("en").keys()


def test_each_text_is_used() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in [*TEMPLATES, *WEB.glob("*.py")])
    sources = sources.replace((WEB / "words.py").read_text(encoding="utf-8"), "")
    computed = ("language_", "state_", "error_", "failed_", "admin_error_")
    unused = {key for key in words("en") if not re.search(rf"\b{key}\b", sources) and not key.startswith(computed)}
    assert not unused


def test_no_key_is_hidden_by_an_attribute_of_the_mapping() -> None:
    # `w.items` in a template is the method, not the text.
    assert not [key for key in words("en") if hasattr(words("en"), key)]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_hold_no_inline_script_or_style(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)|https?://", text)


@pytest.mark.parametrize(
    ("header", "allowed", "expected"),
    [
        (None, ["en", "zh"], "en"),
        ("", ["zh", "en"], "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", ["en", "zh"], "zh"),
        ("ZH-Hant-TW", ["en", "zh"], "zh"),
        ("en-GB;q=0.7, zh;q=0.8", ["en", "zh"], "zh"),
        ("fr, de;q=0.5", ["zh", "en"], "zh"),
        ("fr, *;q=0.1", ["en", "zh"], "en"),
        ("en;q=0, *", ["en", "zh"], "zh"),
        ("zh;q=0", ["zh", "en"], "zh"),
        ("zh", ["en"], "en"),
        ("zh;q=x,;;=,q,-", ["en", "zh"], "en"),
        ("zh;q=nan, en;q=0.1", ["zh", "en"], "en"),
        ("zh", [], "en"),
    ],
)
def test_choose_language(header: str | None, allowed: list[str], expected: str) -> None:
    assert choose_language(header, allowed) == expected

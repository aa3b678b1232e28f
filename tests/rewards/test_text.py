"""Words in several scripts, and the text of conversations."""

from rlalign.rewards.text import shorten, text_of, words


def test_words_of_several_scripts():
    assert words("Don't STOP, it's café-time 42!") == ["don't", "stop", "it's", "café", "time", "42"]
    assert words("我爱中文。abc中") == ["我", "爱", "中", "文", "abc", "中"]
    assert words("😀😀 hi") == ["😀", "😀", "hi"]
    assert words("한국어 말") == ["한국어", "말"]
    assert words("…!?") == []


def test_text_of_and_shorten():
    assert text_of([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]) == "a\n"
    assert shorten("x" * 100, 10) == "'xxxxxxxxx…'"

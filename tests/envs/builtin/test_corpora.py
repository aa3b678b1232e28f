"""Tests of the functions on corpora."""

from rlalign.envs.builtin import corpora


def test_truncation_keeps_characters_complete() -> None:
    assert corpora.truncate("很好 film", 4) == "很"
    assert corpora.truncate("a b", 2) == "a"

"""Tests of Alignment: generated sentences."""

from rlalign.envs.builtin.language.alignment import chinese_sentences, sentences


def test_sentences_are_distinct() -> None:
    assert len({s["prompt"] for s in sentences()}) == 320
    assert len({s["prompt"] for s in chinese_sentences()}) == 320

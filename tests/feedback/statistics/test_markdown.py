"""Markdown elements are counted as they are drawn."""

from __future__ import annotations

import pytest

from rlalign.feedback.statistics.markdown import markdown_counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("plain - text * with # signs", (0, 0, 0)),
        ("# One\n## Two\n#none", (2, 0, 0)),
        ("- a\n* b\n  + c\n1. d\n2) e", (0, 5, 0)),
        ("**one** and __two__ and **\nnot**", (0, 0, 2)),
        ("a\n```\n# code\n- code\n**code**\n```\n- entry", (0, 1, 0)),
        ("```\n# never closed", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_markdown_is_counted_outside_of_code(text: str, counts: tuple[int, int, int]) -> None:
    assert markdown_counts(text) == counts

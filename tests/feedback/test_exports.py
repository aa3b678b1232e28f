"""Votes as lines of CSV."""

from __future__ import annotations

from pathlib import Path

from rlalign.feedback.exports import csv_lines
from rlalign.preferences.files import read_rows


def test_votes_in_csv_are_read_back_as_they_are(tmp_path: Path) -> None:
    row = {
        "vote": 1, "repeat_of": None, "gold": False, "prompt": [{"role": "text", "content": "'=x"}], "annotator": "12",
        "completions": ["'=1+1", "x,\n"], "policies": ["a", None], "ratings": {"q": 3}, "ranking": None, "seen": True,
        "comment": "'=SUM(1)",
    }  # fmt: skip
    rows = [row, *({**row, "comment": text} for text in ("true", "", "5", "=1", "'tis", "null", "[1]", "a\r\nb"))]
    path = tmp_path / "votes.csv"
    path.write_text("".join(csv_lines(rows)), encoding="utf-8", newline="")
    assert [read.record for read in read_rows(path)] == rows

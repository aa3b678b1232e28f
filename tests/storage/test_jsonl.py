"""JSON Lines files: reading after a crash, and null for NaN and infinity."""

import math

import pytest

from rlalign.errors import FaultError
from rlalign.storage.jsonl import JsonLines, nullable, read_metrics


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "a"')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_a_file_shorter_than_at_the_checkpoint_raises_unless_lenient(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(FaultError, match=r"expected 40 bytes or more.*got 12"):
        JsonLines(path, 40)
    file = JsonLines(path, 40, lenient=True)
    file.close()
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_nullable_replaces_nested_values():
    assert nullable({"a": [math.nan, (1.0, math.inf)], "b": "x"}) == {"a": [None, [1.0, None]], "b": "x"}

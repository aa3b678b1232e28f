"""The server process: its log, and what a kill leaves."""

from __future__ import annotations

from rlalign.feedback.web.serve import masked


def test_tokens_are_masked_in_the_log() -> None:
    assert masked("/j/secret") == "/j/***"
    assert masked("/admin/j/secret?PROLIFIC_PID=1") == "/admin/j/***?PROLIFIC_PID=1"
    assert masked("/api/vote") == "/api/vote"

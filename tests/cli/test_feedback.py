"""`rlalign feedback`: a study from the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.cli import main
from tests.feedback.conftest import write_study


def test_a_study_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = write_study(tmp_path, "break_items = 2", prompts=3), str(tmp_path / "study.db")
    assert main(["feedback", "sample", str(path), "--flag", "right"]) == 0
    output = capsys.readouterr()
    assert "3 items of 3 prompts and 6 completions, 9 votes wanted" in output.out
    assert "3 completions contain 'right'" in output.err
    assert main(["feedback", "sample", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["feedback", "invite", store, "--count", "2", "--expires", "12h"]) == 0
    links = capsys.readouterr().out.split()
    assert sum("/j/" in word for word in links) == 2
    assert main(["feedback", "simulate", store, "--people", "2", "--reward", "length?target=3"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert main(["feedback", "withdraw", store, names[0]]) == 0
    assert "withdrawn" in capsys.readouterr().out
    assert main(["feedback", "withdraw", store, names[0]]) == 2
    assert main(["feedback", "erase", store, names[0]]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["feedback", "erase", store, names[0], "--yes"]) == 0
    assert main(["feedback", "forget", store, names[1]]) == 0
    assert "is now 'forgotten-" in capsys.readouterr().out
    assert main(["feedback", "forget", store, names[1]]) == 2
    assert "unknown annotator" in capsys.readouterr().err
    events = sqlite3.connect(store).execute("SELECT what FROM event ORDER BY id").fetchall()
    assert {"create", "invite", "withdraw", "erase", "forget"} <= {what for (what,) in events}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smaple"], "Did you mean 'sample'"),
        (["invite", "none.db"], "rlalign feedback sample study.toml"),
        (["invite", "STORE", "--expires", "soon"], "14d or 12h"),
        (["invite", "STORE", "--count", "0"], "count"),
        (["simulate", "STORE", "--reward", "nothing"], "unknown reward"),
        (["simulate", "STORE", "--noise", "0"], "--noise"),
        (["sample", "none.toml"], "cannot be read"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, prompts=1)
    assert main(["feedback", "sample", str(path)]) == 0
    arguments = [str(tmp_path / "study.db") if word == "STORE" else word for word in arguments]
    assert main(["feedback", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("sample", "invite", "serve", "simulate", "forget", "withdraw", "erase"))


def test_completions_of_a_file_keep_their_marks(tmp_path: Path) -> None:
    path = write_study(tmp_path, prompts=1)
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    rows[0]["finish"] = "length"
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["feedback", "sample", str(path)])
    stored = sqlite3.connect(tmp_path / "study.db").execute("SELECT finish FROM completion ORDER BY id").fetchall()
    assert stored == [("length",), ("stop",)]

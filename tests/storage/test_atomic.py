"""Atomic writes: the old or the new file remains, and errors are one line that names the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rlalign.cli import main
from rlalign.compare.output.plots import write_plots
from rlalign.compare.results.results_json import read_results
from rlalign.errors import FaultError
from rlalign.storage import atomic
from rlalign.storage.atomic import replacing, write_atomic

DATA = Path(__file__).parents[1] / "data"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(FaultError, match=r"a\.json' cannot be written \(No space left on device\); free space"):
        write_atomic(path, "new")
    with pytest.raises(FaultError, match=r"curves-.*\.png' cannot be written"):
        write_plots(tmp_path, read_results(DATA))
    with pytest.raises(FaultError, match=r"b\.json' cannot be written \(File exists\)"):
        write_atomic(path / "b.json", "in a folder that is a file")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_unwritable_file_and_an_unknown_flag_print_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for arguments, message in (
        (
            ["new", "reward", "unwritten", "--folder", str(tmp_path / "file")],
            "unwritten.py' cannot be written (File exists)",
        ),
        (["doctor", "--fast"], "takes no arguments: leave out --fast"),
    ):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_folder_is_replaced_as_a_whole_and_only_without_an_error(tmp_path: Path) -> None:
    target = tmp_path / "data"
    (tmp_path / "data.tmp").mkdir()  # of a process that was killed
    (tmp_path / "data.tmp" / "old part").touch()
    for name in ("first", "second"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]

    def fail(temporary: Path) -> None:
        temporary.mkdir()
        raise KeyError

    with pytest.raises(KeyError), replacing(target) as temporary:
        fail(temporary)
    with pytest.raises(FaultError, match=r"data' cannot be written \(Is a directory\)"):
        write_atomic(target, "a file in place of a folder")
    assert [path.name for path in target.iterdir()] == ["second"]
    assert os.listdir(tmp_path) == ["data"]

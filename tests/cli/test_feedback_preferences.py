"""`rlalign feedback export` and `check` from the command line."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.cli import main
from rlalign.feedback.progress import votes
from rlalign.feedback.store import Store
from rlalign.preferences.files import read_rows
from rlalign.preferences.formats import read_preferences
from tests.feedback.conftest import write_study


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a study with six items, three votes each, and two comments."""
    folder = tmp_path_factory.mktemp("voted")
    path, location = write_study(folder, prompts=6), folder / "study.db"
    assert main(["feedback", "sample", str(path)]) == 0
    words = ["feedback", "simulate", str(location), "--people", "3", "--reward", "length?target=3", "--noise", "0.01"]
    assert main(words) == 0
    with sqlite3.connect(location) as connection:
        connection.execute("INSERT INTO comment (vote, text) VALUES (1, '=1+1'), (2, '中文\n\"quoted\"')")
    connection.close()
    return location


@pytest.fixture
def store(voted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A copy of the store."""
    capsys.readouterr()
    return str(shutil.copy(voted, tmp_path / "study.db"))


def names_of_people(store: str) -> set[str]:
    with Store(store) as opened:
        return {str(row["annotator"]) for row in opened.read(lambda c: list(votes(c)))}


def test_preferences_for_trl_beside_the_store(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "export", store]) == 0
    output = capsys.readouterr().out
    rows = [row.record for row in read_rows(tmp_path / "study.trl.jsonl")]
    assert f"{len(rows)} preferences" in output
    assert "made: one per item, of the side with more votes" in output
    assert "left out: nothing" in output
    assert list(rows[0])[:3] == ["prompt", "chosen", "rejected"]
    assert {row["strength"] for row in rows} <= {1 / 3, 1.0}
    assert not any(name in json.dumps(rows) for name in names_of_people(store))
    assert main(["feedback", "check", str(tmp_path / "study.trl.jsonl")]) == 0
    assert main(["feedback", "export", store]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["feedback", "export", store, "--force", "--margin"]) == 0
    assert "changes the loss of RewardTrainer" in capsys.readouterr().out
    assert "margin" in next(read_rows(tmp_path / "study.trl.jsonl")).record


def test_a_folder_of_datasets_has_a_table_per_split(store: str, tmp_path: Path) -> None:
    assert main(["feedback", "export", store, "--output", str(tmp_path / "data"), "--each-vote"]) == 0
    rows = list(read_rows(tmp_path / "data"))
    assert len(rows) == 18
    assert {row.split for row in rows} <= {"train", "test"}
    assert {row.record["annotator"] for row in rows} == names_of_people(store)
    counts = {split: sum(row.split == split for row in rows) for split in ("train", "test")}
    for split, count in counts.items():
        output = tmp_path / f"{split}.csv"
        status = main(["feedback", "export", store, "--output", str(output), "--each-vote", "--split", split])
        assert status == (0 if count else 2)
        assert not count or len(list(read_rows(output))) == count


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_every_vote_with_its_time(format: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "export", store, "--format", format]) == 0
    assert "18 votes" in capsys.readouterr().out
    path = tmp_path / f"study.votes.{format}"
    with Store(store) as opened:
        stored = opened.read(lambda c: list(votes(c)))
    if format == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert [row["comment"] for row in table][:2] == ["'=1+1", '中文\n"quoted"']
        assert [int(row["at"]) for row in table] == [row["at"] for row in stored]
    else:
        assert [row.record for row in read_rows(path)] == stored
    assert main(["feedback", "export", store, "--format", format, "--no-comments", "--force"]) == 0
    assert "=1+1" not in path.read_bytes().decode("utf-8", "replace")


def test_exported_votes_give_the_same_preferences_as_the_store(store: str, tmp_path: Path) -> None:
    assert main(["feedback", "export", store]) == 0
    expected = [row.record for row in read_rows(tmp_path / "study.trl.jsonl")]
    for format in ("jsonl", "csv", "parquet"):
        assert main(["feedback", "export", store, "--format", format]) == 0
        preferences = list(read_preferences(tmp_path / f"study.votes.{format}"))
        assert [(p.prompt, p.chosen, p.rejected, p.margin, p.group) for p in preferences] == [
            (row["prompt"], row["chosen"], row["rejected"], row["strength"], row["group"]) for row in expected
        ]


def test_an_export_is_logged_as_a_look(store: str, tmp_path: Path) -> None:
    assert main(["feedback", "export", store]) == 0
    assert main(["feedback", "export", store, "--format", "csv"]) == 0
    assert main(["feedback", "export", store]) == 2  # refused: nobody saw a result
    with sqlite3.connect(store) as connection:
        events = connection.execute("SELECT actor FROM event WHERE what = 'export'").fetchall()
        assert events == [("command line",)] * 2
        # all votes are there, so that a look changes nothing
        assert connection.execute("SELECT looks FROM study").fetchone() == (0,)


def test_a_check_names_rows_writes_json_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prefs.jsonl"
    rows = [
        {"prompt": "Why? ", "chosen": "Because of x.", "rejected": "No reason."},
        {"prompt": "How? ", "chosen": "\x1b[31mred", "rejected": ""},
        {"prompt": "Who? ", "chosen": "Ann", "rejected": "Ann "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "report.json"
    assert main(["feedback", "check", str(path), "--json", str(report), "--rows", "1"]) == 1
    output = capsys.readouterr().out
    assert "3 rows in the format trl (the columns chosen and rejected)" in output
    assert "error    empty-side" in output
    assert "prefs.jsonl, line 2: rejected" in output
    assert "prefs.jsonl, line 3: equal but for spaces" in output
    assert output.splitlines()[-1] == "2 kinds of errors, 0 kinds of warnings, 0 kinds of notes"
    content = json.loads(report.read_text())
    assert (content["passed"], [finding["kind"] for finding in content["findings"]]) == (
        False, ["empty-side", "equal-sides"],
    )  # fmt: skip
    other = tmp_path / "test.jsonl"
    other.write_text(json.dumps({"prompt": "why? ", "chosen": "a.", "rejected": "b."}) + "\n")
    path.write_text(json.dumps(rows[0]) + "\n")
    assert main(["feedback", "check", str(path)]) == 0
    assert main(["feedback", "check", str(path), "--test", str(other)]) == 1
    assert "test.jsonl, line 1: test; train has it in prefs.jsonl, line 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.jsonl"], "cannot be read"),
        (["check", "none"], "does not exist"),
        (["check", "prefs.jsonl", "--format", "trll"], "Did you mean 'trl'"),
        (["check", "prefs.jsonl", "--max-length", "9"], "--tokenizer"),
        (["check", "prefs.jsonl", "--rows", "0"], "--rows"),
        (["check", "other.jsonl"], "expected one of the formats"),
        (["export", "none.db"], "does not exist"),
        (["export", "STORE", "--format", "csv", "--output", "votes.jsonl"], "ends in .csv"),
        (["export", "STORE", "--output", "prefs.xlsx"], "ends in .jsonl, .csv, .parquet"),
        (["export", "STORE"], "expected votes that prefer one of two completions"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefs.jsonl").write_text('{"chosen": "a b", "rejected": "a c"}\n')
    (tmp_path / "other.jsonl").write_text('{"text": "a b"}\n')
    if "STORE" in arguments:
        assert main(["feedback", "sample", str(write_study(tmp_path, prompts=1))]) == 0
    assert main(["feedback", *("study.db" if word == "STORE" else word for word in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_help_needs_no_heavy_package() -> None:
    code = (
        "import sys\nfrom rlalign.cli import main\n"
        "for words in (['feedback', '--help'], ['feedback', 'check', '--help'], ['feedback', 'export', '--help']):\n"
        "    try: main(words)\n    except SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'sqlalchemy', 'pandas', 'transformers', 'datasets', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_sample_warns_of_few_groups_of_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"Add the numbers{'.' * i}", "policy": policy, "completion": f"{policy} {i}"}
        for i in range(10)
        for policy in "ab"
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "study.toml").write_text('name = "few"\ncompletions = "c.jsonl"\n')
    assert main(["feedback", "sample", str(tmp_path / "study.toml")]) == 0
    assert "warning: 10 prompts form 1 groups of near duplicates" in capsys.readouterr().err


ROW = json.dumps({"prompt": "Name a river. ", "chosen": "The Rhine.", "rejected": "Paris."}) + "\n"


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("name", ["data.json", "./data.json", "link.json", "hard.json", "other.json"])
def test_check_refuses_to_write_its_report_over_its_input(
    name: str, force: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data.json"
    data.write_text(ROW)
    (tmp_path / "other.json").write_text(ROW)
    (tmp_path / "link.json").symlink_to(data)
    (tmp_path / "hard.json").hardlink_to(data)
    assert main(["feedback", "check", str(data), "--test", "other.json", "--json", name, *force]) == 2
    assert "expected another path than the input" in capsys.readouterr().err
    assert (data.read_text(), (tmp_path / "other.json").read_text()) == (ROW, ROW)


def test_check_replaces_a_file_only_by_force_and_never_a_store(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, report = tmp_path / "data.jsonl", tmp_path / "report.json"
    data.write_text(ROW)
    report.write_text("precious")
    words = ["feedback", "check", str(data), "--json"]
    assert main([*words, str(report)]) == 2
    assert "exists already; use another path, or --force to replace it" in capsys.readouterr().err
    assert report.read_text() == "precious"
    assert main([*words, str(report), "--force"]) == 0
    assert json.loads(report.read_text())["passed"]
    assert main([*words, str(tmp_path), "--force"]) == 2
    before = Path(store).read_bytes()
    for end in ("", "-wal", "-shm"):
        assert main([*words, f"{store}{end}", "--force"]) == 2
        assert "got a part of a store" in capsys.readouterr().err
    assert Path(store).read_bytes() == before


@pytest.mark.parametrize("command", ["export", "report"])
@pytest.mark.parametrize("name", ["votes.csv", "votes", "study.csv", "folder", "votes.csv.tmp"])
def test_no_output_replaces_the_store(
    command: str, name: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store itself under any name, a link to it, and a folder of datasets that it lies in."""
    if name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text("{}")
        location = Path(shutil.move(store, tmp_path / name / "study.db"))
    else:
        location = Path(shutil.move(store, tmp_path / ("study.db" if name == "study.csv" else name)))
    output = tmp_path / name.removesuffix(".tmp")
    if name == "study.csv":
        output.hardlink_to(location)
    before = location.read_bytes()
    words = ["feedback", command, str(location), "--output", str(output)]
    assert (
        main([*words, *(["--format", "csv"] if output.suffix else []), "--force"] if command == "export" else words)
        == 2
    )
    assert "expected another path than the input" in capsys.readouterr().err
    assert location.read_bytes() == before


def test_an_output_of_the_other_kind_is_refused(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prefs").write_text("a file")
    assert main(["feedback", "export", store, "--output", str(tmp_path / "prefs"), "--force"]) == 2
    assert "expected a folder, since the path has no suffix, got a file" in capsys.readouterr().err
    assert (tmp_path / "prefs").read_text() == "a file"

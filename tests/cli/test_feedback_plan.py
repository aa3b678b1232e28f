"""`rlalign feedback plan`: sample sizes of a study from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.cli import main
from tests.feedback.conftest import write_study


def test_a_plan_names_prompts_people_and_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, prompts=200)
    assert main(["feedback", "plan", str(path)]) == 0
    output = capsys.readouterr().out
    assert "a win rate of 55 % instead of 50 %" in output
    assert "power 80 %" in output
    assert "340 prompts, 1020 votes" in output  # 10 people, for the panel
    assert "not with any number" in output  # for the population
    assert "at least 42 people" in output
    assert "As described (200 prompts, 600 votes)" in output
    assert "6.5 points" in output


def test_flags_and_several_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, "votes_per_item = 2\ncount = 20", prompts=30, completions=3)
    assert main(["feedback", "plan", str(path), "--difference", "10", "--power", "0.9", "--people", "50"]) == 0
    output = capsys.readouterr().out
    assert "each of 3 pairs" in output
    assert "power 90 %" in output
    assert "(20 prompts, 120 votes)" in output
    assert output.count("\n    50  ") == 2
    (tmp_path / "completions.jsonl").unlink()  # before the data exist
    assert main(["feedback", "plan", str(path)]) == 0
    assert "20 prompts" in capsys.readouterr().out


def test_an_earlier_study_gives_the_correlations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = write_study(tmp_path, prompts=12), str(tmp_path / "study.db")
    assert main(["feedback", "sample", str(path)]) == 0
    assert main(["feedback", "plan", str(path), "--store", store]) == 2
    assert "expected votes" in capsys.readouterr().err
    assert main(["feedback", "simulate", store, "--people", "3", "--reward", "length?target=3"]) == 0
    assert main(["feedback", "plan", str(path), "--store", store]) == 0
    assert "estimated from these votes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--difference", "0"], "--difference: expected more than 0"),
        (["--difference", "50"], "less than 50 points"),
        (["--power", "1"], "--power"),
        (["--people", "0"], "--people"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feedback", "plan", str(write_study(tmp_path)), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_ratings_have_no_win_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, 'kind = "rating"\n[[scales]]\nname = "q"')
    assert main(["feedback", "plan", str(path)]) == 2
    assert "expected kind" in capsys.readouterr().err


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys, rlalign.cli; rlalign.cli.main(['feedback', '--help']); "
        "assert not {'torch', 'scipy', 'sqlalchemy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

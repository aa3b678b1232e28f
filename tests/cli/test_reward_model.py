"""`rlalign reward-model`, and a reward-model folder in `rlalign check`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlalign.cli import main
from tests.reward_models.tiny import notes, write_rows


@pytest.fixture
def prefs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_rows(tmp_path / "prefs.jsonl", notes(80))


def test_train_evaluate_and_check(prefs, capsys):
    assert main(["reward-model", "train", str(prefs), "--model", "linear", "--output", "rm", "--flipped", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "rm: linear, trained on 6" in printed
    assert "flipped 20%" in printed
    assert "next: rlalign train --env ENV --reward ./rm" in printed
    rows = [{**row, "prompt": f"New {i}"} for i, row in enumerate(notes(40, 5))]
    other = write_rows(prefs.parent / "other.jsonl", rows)
    arguments = ["reward-model", "evaluate", "rm", "--data", str(other), "--json", "e.json", "--picture", "r.svg"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert "accuracy" in output.out
    assert "warning" not in output.err
    content = json.loads((prefs.parent / "e.json").read_text())
    assert content["metrics"]["pairs"] == 40
    assert (prefs.parent / "r.svg").is_file()
    assert main(["reward-model", "evaluate", "rm", "--data", str(prefs)]) == 0
    assert "rows have a prompt on which the model was trained" in capsys.readouterr().err
    assert main(["check", "./rm"]) == 0
    assert "every check passed" in capsys.readouterr().out


def test_mistakes_end_in_messages(prefs, capsys):
    assert main(["reward-model", "train", "nothing.jsonl", "--model", "linear", "--output", "rm"]) == 2
    assert main(["reward-model", "fit"]) == 2
    assert "subcommand of reward-model" in capsys.readouterr().err
    assert main(["reward-model", "evaluate", "rm", "--data", str(prefs)]) == 2
    assert "which is no folder" in capsys.readouterr().err
    assert main(["reward-model", "train", str(prefs), "--model", "./none", "--output", "rm"]) == 2
    assert "expected a folder, got none" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from rlalign.cli import main; main(['reward-model', '--help'])\n"
        "try: main(['reward-model', 'train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'sqlalchemy', 'pandas', 'trl', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.strip().splitlines()[-1] == "[]"
    assert "train a reward model" in result.stdout


def test_an_accuracy_that_may_be_chance_is_reported(prefs, capsys):
    rows = notes(24)
    for number, row in enumerate(rows):  # half of the preferences are the other way around
        if number % 2:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    data = write_rows(prefs.parent / "noise.jsonl", rows)
    assert main(["reward-model", "train", str(data), "--model", "linear", "--output", "rm"]) == 0
    assert "the interval of the accuracy includes 0.5" in capsys.readouterr().err
    assert main(["reward-model", "train", str(prefs), "--model", "linear", "--output", "good"]) == 0
    assert "includes 0.5" not in capsys.readouterr().err

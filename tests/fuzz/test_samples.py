"""A sample of the generated command lines and data files; `python -m tests.fuzz` runs all of them."""

import json
from pathlib import Path

import pytest

from tests.fuzz import command_lines, data_files
from tests.fuzz.harness import run_command

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "a" / "b"
    path.mkdir(parents=True)
    command_lines.prepare(path)
    return path


@pytest.mark.parametrize("module", [command_lines, data_files])
def test_a_sample_has_no_fault(module, folder):
    for number, case in enumerate(module.generate(24, seed=20)):
        outcome = module.check(case, folder)
        assert not outcome.faults, (number, outcome)


@pytest.mark.parametrize("module", [command_lines, data_files])
def test_a_seed_gives_the_same_cases(module):
    assert module.generate(30, 7) == module.generate(30, 7)
    assert module.generate(30, 7) != module.generate(30, 8)


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        ("raise ValueError('x')", "ValueError: x"),
        ("raise BaseException('x')", "BaseException: x"),
        ("print('x'); return 3", "ends with status 3"),
        ("return 2", "fails without a word"),
        ("print('\\x1b[2J'); return 0", "prints a control character"),
        ("open('new', 'w').close(); print('x'); return 2", "refuses the arguments and writes new"),
        ("import traceback; print('Traceback (most recent call last)'); return 1", "prints a traceback"),
        ("while True: pass", "hangs: more than 0.2 s"),
    ],
)
def test_each_fault_is_noticed(monkeypatch, tmp_path, act, fault):
    space = {}
    exec(f"def main(words):\n    {act}", space)
    monkeypatch.setattr("rlalign.cli.main", space["main"])
    assert run_command(["train"], tmp_path, limit_s=0.2).faults == [fault]


def test_lost_records_and_missing_work_are_noticed(monkeypatch, tmp_path):
    lines = "".join(json.dumps({"prompt": f"p{i}", "answer": "a"}) + "\n" for i in range(24)).encode()
    case = data_files.Case("data.jsonl", lines, 25, "", ("--reward", "length?target=3"))
    assert data_files.check(case, tmp_path).faults == ["reads 24 of 25 records"]
    monkeypatch.setattr("rlalign.cli.main", lambda words: print("done") or 0)
    assert data_files.check(case, tmp_path).faults[0] == "succeeds without its step"
    assert command_lines.check(["train", "--steps", "2"], tmp_path).faults == ["succeeds with 0 of 2 steps"]


def test_the_committed_result_is_of_all_cases_and_has_no_fault():
    result = json.loads(RESULT.read_text())
    for part in ("command_lines", "data_files"):
        assert result[part]["faults"] == []
        assert sum(result[part]["statuses"].values()) == result[part]["cases"]

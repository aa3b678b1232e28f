"""Commands on a run whose folder, data and rewards look like markup, control sequences and mathematics."""

import json

import pytest

from tests.fuzz.harness import run_command

FOLDER = "[/b] $x$ [bold]run"
PROMPTS = (r"\[x^2\]", "[/b]", "\x1b[2Jscreen", "[bold]loud[/]", ":smile:", "<script>", "=1+1", "\u202eturned")
SMALL = (
    "--policy", "gru", "--steps", "1", "--rollout.prompts", "2", "--rollout.group-size", "2", "--evaluation.prompts",
    "8", "--rollout.max-new", "4",
)  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Return the folder and the outcome of a training run."""
    folder = tmp_path_factory.mktemp("texts")
    records = [{"prompt": f"{prompt} {i}", "answer": "a"} for i in range(3) for prompt in PROMPTS]
    splits = [{**record, "split": split} for split in ("train", "validation") for record in records]
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in splits))
    (folder / "own.py").write_text(
        "def score(completions, **columns):\n    return [float(len(c)) for c in completions]\n"
        "def fails(completions, **columns):\n    raise ValueError('[/b]\\x1b[31m $y$')\n"
    )
    words = ["train", "--env", "data.jsonl", "--reward", "own.py:score", *SMALL, "--output", FOLDER]
    return folder, run_command(words, folder)


def test_a_run_prints_its_texts_as_they_are(outcome):
    _, trained = outcome
    assert (trained.status, trained.faults) == (0, [])
    assert FOLDER in trained.stdout.replace("\n", "")
    shown = [text for text in (r"\[x^2\]", "[/b] ", r"\x1b[2J", "[bold]loud[/]", ":smile:") if text in trained.stdout]
    assert shown  # three of the prompts are printed


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["generate", FOLDER, "\x1b[2Jscreen 0"], r"\x1b[2Jscreen 0"),
        (["evaluate", FOLDER, "--prompts", "8"], r"[/b]"),
        (["report", FOLDER], "report.html"),
        (["plot", FOLDER], "reward.png"),
    ],
)
def test_each_command_reads_it(outcome, words, shown):
    folder, _ = outcome
    result = run_command(words, folder)
    assert (result.status, result.faults) == (0, [])
    assert shown in result.stdout


def test_an_error_of_a_reward_is_printed_visibly(outcome):
    folder, _ = outcome
    words = ["train", "--env", "data.jsonl", "--reward", "own.py:fails", *SMALL, "--output", "other"]
    result = run_command(words, folder)
    assert result.status == 2
    assert r"ValueError: [/b]\x1b[31m $y$" in result.stderr
    assert result.faults == []

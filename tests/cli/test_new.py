"""`rlalign new` writes what works: the laws hold, the test passes, and nothing of yours is overwritten."""

import runpy

import pytest

import rlalign
from rlalign import cli


def new(capsys, *words):
    status = cli.main(["new", *words])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.mark.parametrize(
    ("words", "stem", "attribute"),
    [
        (("env", "haiku"), "haiku", "Haiku"),
        (("env", "GuessIt", "--turns", "3"), "guess_it", "GuessIt"),
        (("reward", "short-ness"), "short_ness", "short_ness"),
    ],
)
def test_what_is_written_works_as_it_is(capsys, tmp_path, monkeypatch, words, stem, attribute):
    monkeypatch.chdir(tmp_path)
    status, said = new(capsys, *words)
    assert status == 0
    assert {p.name for p in tmp_path.iterdir()} == {f"{stem}.py", f"test_{stem}.py"}
    assert f"rlalign check {stem}.py:{attribute}" in said
    assert cli.main(["check", f"{stem}.py:{attribute}", "--episodes", "16"]) == 0
    assert "every check passed" in capsys.readouterr().out
    tests = [f for name, f in runpy.run_path(f"test_{stem}.py").items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_template_of_several_turns_answers(capsys, tmp_path):
    assert new(capsys, "env", "asked", "--turns", "5", "--folder", str(tmp_path))[0] == 0
    mdp = rlalign.make_mdp(f"{tmp_path}/asked.py:Asked")
    assert mdp.max_turns == 5
    assert mdp.reply(rlalign.Task("", {"answer": "c"}), mdp.tokenizer.encode("a"), {}, None) is not None
    assert mdp.reply(rlalign.Task("", {"answer": "c"}), mdp.tokenizer.encode("c"), {}, None) is None


def test_nothing_is_overwritten(capsys, tmp_path):
    (tmp_path / "test_haiku.py").write_text("mine")
    status, said = new(capsys, "env", "haiku", "--folder", str(tmp_path))
    assert status == 2
    assert "test_haiku.py' is there already" in said
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("test_haiku.py", "mine")]


def test_a_folder_of_that_name_hides_nothing(capsys, tmp_path, monkeypatch):
    (tmp_path / "haiku").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert new(capsys, "env", "haiku", "--folder", str(tmp_path))[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("env", "two words"), "is no name for a file"),
        (("env", "class"), "is no name for a file"),
        (("env", "_hidden"), "is no name for a file"),
        (("env", "json"), "'json' is Python's own module, which json.py would hide: call it my_json"),
        (("reward", "sys"), "Python's own"),
        (("env", "Winreg"), "Python's own"),  # there on other systems only
        (("reward", "numpy"), "an installed module"),
        (("env", "rlalign"), "an installed module"),
        (("reward", "vader"), "there is a reward 'vader' already"),
        (("reward", "brevity_of_mine", "--turns", "2"), "to environments only"),
    ],
)
def test_names_that_cannot_be(capsys, tmp_path, words, said):
    status, told = new(capsys, *words, "--folder", str(tmp_path))
    assert status == 2
    assert said in told
    assert not list(tmp_path.iterdir())

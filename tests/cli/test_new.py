"""`rlalign new`: templates pass their checks and tests, existing files remain, and unsuitable names raise an error."""

import runpy

import pytest

import rlalign
from rlalign import cli


def new(capsys, *arguments):
    """Return the exit status and the output of `rlalign new`."""
    status = cli.main(["new", *arguments])
    out, err = capsys.readouterr()
    return status, out + err


@pytest.mark.parametrize(
    ("arguments", "stem", "attribute"),
    [
        (("env", "haiku"), "haiku", "Haiku"),
        (("env", "GuessIt", "--turns", "3"), "guess_it", "GuessIt"),
        (("reward", "short-ness"), "short_ness", "short_ness"),
    ],
)
def test_templates_pass_their_checks_and_tests(capsys, tmp_path, monkeypatch, arguments, stem, attribute):
    monkeypatch.chdir(tmp_path)
    status, output = new(capsys, *arguments)
    assert status == 0
    assert {p.name for p in tmp_path.iterdir()} == {f"{stem}.py", f"test_{stem}.py"}
    assert f"rlalign check {stem}.py:{attribute}" in output
    assert cli.main(["check", f"{stem}.py:{attribute}", "--episodes", "16"]) == 0
    assert "every check passed" in capsys.readouterr().out
    tests = [f for name, f in runpy.run_path(f"test_{stem}.py").items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_multi_turn_template_replies(capsys, tmp_path):
    assert new(capsys, "env", "asked", "--turns", "5", "--folder", str(tmp_path))[0] == 0
    mdp = rlalign.make_mdp(f"{tmp_path}/asked.py:Asked")
    assert mdp.max_turns == 5
    assert mdp.reply(rlalign.Task("", {"answer": "c"}), mdp.tokenizer.encode("a"), {}, None) is not None
    assert mdp.reply(rlalign.Task("", {"answer": "c"}), mdp.tokenizer.encode("c"), {}, None) is None


def test_existing_files_are_not_overwritten(capsys, tmp_path):
    (tmp_path / "test_haiku.py").write_text("mine")
    status, output = new(capsys, "env", "haiku", "--folder", str(tmp_path))
    assert status == 2
    assert "test_haiku.py' exists already" in output
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("test_haiku.py", "mine")]


def test_a_name_of_a_folder_is_accepted(capsys, tmp_path, monkeypatch):
    (tmp_path / "tanka").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert new(capsys, "env", "tanka", "--folder", str(tmp_path))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("env", "two words"), "as in a Python identifier"),
        (("env", "class"), "as in a Python identifier"),
        (("env", "_hidden"), "as in a Python identifier"),
        (("env", "json"), "a standard library module, which json.py would shadow: use another name, such as my_json"),
        (("reward", "sys"), "a standard library module"),
        (("env", "Winreg"), "a standard library module"),  # on Windows only
        (("reward", "numpy"), "an installed module"),
        (("env", "rlalign"), "an installed module"),
        (("reward", "vader"), "reward 'vader' exists already"),
        (("reward", "brevity_of_mine", "--turns", "2"), "for environments only"),
    ],
)
def test_unsuitable_names_raise_an_error(capsys, tmp_path, arguments, message):
    status, output = new(capsys, *arguments, "--folder", str(tmp_path))
    assert status == 2
    assert message in output
    assert not list(tmp_path.iterdir())

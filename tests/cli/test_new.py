"""`rlalign new`: templates pass their checks and tests, existing files remain, and unsuitable names raise an error."""

import dataclasses
import re
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


def test_the_template_of_a_study_is_one(capsys, tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy", reason="needs the extra feedback")
    from rlalign.feedback.study import Example, SamplingSettings, Scale, Stop, Study, read_study

    monkeypatch.chdir(tmp_path)
    status, output = new(capsys, "study", "mine/study.toml")
    assert status == 0
    assert "next: edit mine/study.toml, then rlalign feedback sample mine/study.toml" in output
    path = tmp_path / "mine" / "study.toml"
    study = read_study(path)
    assert (study.kind, study.votes_per_item, len(study.policies)) == ("pair", 3, 2)

    # the commented settings are valid together, but for `completions`, and each setting is named
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^# (?=\[|\w+ = )", "", text.replace('# completions = "', '#completions = "'), flags=re.MULTILINE)
    for name in ("guidelines", "consent"):
        (path.parent / f"{name}.md").write_text(name)
    # scales belong to another kind of study, and gold questions need a share
    usable = re.sub(r"^\[\[scales\]\].*?(?=^#?\[)", "", text, flags=re.MULTILINE | re.DOTALL)
    path.write_text(usable.replace("gold_share = 0.0", "gold_share = 0.1"), encoding="utf-8")
    full = read_study(path)
    names = {f.name for cls in (Study, Scale, Example, SamplingSettings, Stop) for f in dataclasses.fields(cls)}
    assert names <= set(re.findall(r"^#?\[*(\w+)(?: =|\])", text, flags=re.MULTILINE))
    shown = {"name", "policies", "prompts", "guidelines", "consent", "practice", "check", "gold", "gold_share"}
    for field in dataclasses.fields(Study):
        if field.name not in shown:
            assert getattr(full, field.name) == getattr(study, field.name), field.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study", "mine"), "expected a file that ends in .toml, got 'mine'; use mine.toml"),
        (("study", "study.toml", "--turns", "2"), "for environments only"),
    ],
)
def test_unsuitable_files_of_a_study_raise_an_error(capsys, tmp_path, arguments, message):
    status, output = new(capsys, *arguments, "--folder", str(tmp_path))
    assert (status, message in output) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_study_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "study.toml").write_text("mine")
    status, output = new(capsys, "study", "study.toml", "--folder", str(tmp_path))
    assert status == 2
    assert "study.toml' exists already" in output
    assert (tmp_path / "study.toml").read_text() == "mine"

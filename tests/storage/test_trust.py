"""Run folders of other people: no code runs without permission, and no permission is read from a file."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import rlalign
from rlalign import cli
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage.run_folder import read_config, write_config
from rlalign.storage.run_mark import is_own, mark_run
from rlalign.storage.trust import check_trust

_SMALL = ("--steps", "2", "--rollout.prompts", "2", "--rollout.group-size", "2", "--evaluation.prompts", "2")
_REWARD = "open('ran', 'a').write('x')\ndef f(completions, **columns): return [float(len(c)) for c in completions]\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return the folder of a finished run with a reward of a file, which notes each time that it is imported."""
    folder = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RLALIGN_HOME", str(folder / "home"))
        (folder / "r.py").write_text(_REWARD)
        reward = str(folder / "r.py") + ":f"
        assert (
            cli.main(
                [
                    "train",
                    "--env",
                    "reverse",
                    "--policy",
                    "gru",
                    "--reward",
                    reward,
                    *_SMALL,
                    "--output",
                    str(folder / "run"),
                ]
            )
            == 0
        )
    return folder


@pytest.fixture
def foreign(own, tmp_path, monkeypatch):
    """Return a copy of the run on the machine of another user, whose programs have another key."""
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own / "run", tmp_path / "run")
    # a module that is imported already would not run again
    for name in [name for name in sys.modules if name.startswith("rlalign_file_r_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "run"


@pytest.mark.parametrize("command", ["evaluate run", "generate run abc", "train --resume run --steps 3"])
def test_code_of_a_foreign_run_is_shown_and_runs_only_with_the_flag(own, foreign, capsys, command):
    assert not is_own(foreign)
    assert cli.main(command.split()) == 2
    message = capsys.readouterr().err
    reason = "was not written by you on this machine, or was edited since, and its config.json runs code: reward"
    assert f"'run' {reason}" in message
    assert "r.py (sha256 " in message
    assert "as in the run); read it, then use --trust-run" in message
    assert not (foreign.parent / "ran").exists()
    assert cli.main([*command.split(), "--trust-run"]) == 0
    assert (foreign.parent / "ran").exists()


def test_a_foreign_run_that_names_no_code_needs_no_flag(own, foreign):
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "rewards": []}))
    assert check_trust(foreign, read_config(foreign)) != []  # its reward is another one, which is reported


def test_an_edited_configuration_is_not_the_users_own(own, monkeypatch):
    monkeypatch.setenv("RLALIGN_HOME", str(own / "home"))
    assert is_own(own / "run")
    text = (own / "run" / "config.json").read_text()
    (own / "run" / "config.json").write_text(text.replace("r.py:f", "s.py:f"))
    assert not is_own(own / "run")
    (own / "run" / "config.json").write_text(text)
    assert is_own(own / "run")


def test_code_inside_a_run_folder_is_covered_by_its_mark(tmp_path, monkeypatch):
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for file in ("run/r.py", "run/helper.py", "outside.py"):
        Path(file).write_text("")
    Path("run/r.py").write_text("import helper\n" + _REWARD)
    config = TrainConfig(env="reverse", policy="gru", rewards=("run/r.py:f", "outside.py:f"))
    write_config(Path("run"), config)
    check_trust(Path("run"), config)
    Path("outside.py").write_text("# edited where nobody else writes\n")
    check_trust(Path("run"), config)
    for file in ("run/r.py", "run/helper.py"):
        text = Path(file).read_text()
        Path(file).write_text(text + "# edited elsewhere\n")
        with pytest.raises(UserError, match=r"or was edited since, and its config\.json runs code: reward run/r\.py:f"):
            check_trust(Path("run"), config)
        check_trust(Path("run"), config, trust=True)
        Path(file).write_text(text)
    assert not Path("ran").exists()


@pytest.fixture
def keyless(tmp_path, monkeypatch):
    """Return a run folder of a user whose home directory cannot be written: a file is in its place."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "file" / "home"))
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    (run / "config.json").write_text("{}")
    (run / "config.json").chmod(0o644)
    with pytest.warns(UserWarning, match=r"cannot be written \(Not a directory\), so run folders get no mark"):
        mark_run(run)
    return run


def test_without_a_key_the_owner_and_the_permissions_decide(keyless):
    assert is_own(keyless)
    (keyless / "run.mark").write_text("0" * 64)  # of another key
    assert not is_own(keyless)
    (keyless / "run.mark").unlink()
    for path in (keyless, keyless / "config.json"):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        assert not is_own(keyless)
        path.chmod(mode)
    assert is_own(keyless)


def test_a_run_without_a_key_replaces_the_mark_of_another_one(keyless):
    (keyless / "run.mark").write_text("0" * 64)
    with pytest.warns(UserWarning, match="set RLALIGN_HOME to a folder of your own"):
        mark_run(keyless)
    assert is_own(keyless)


def test_a_key_is_kept_on_file_systems_without_hard_links(tmp_path, monkeypatch):
    def link(*paths):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "link", link)
    (tmp_path / "config.json").write_text("{}")
    mark_run(tmp_path)
    assert is_own(tmp_path)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["run.key"]


def test_code_that_changed_since_the_training_is_reported(own, monkeypatch):
    monkeypatch.setenv("RLALIGN_HOME", str(own / "home"))
    monkeypatch.chdir(own)
    (own / "r.py").write_text(_REWARD + "# edited\n")
    with pytest.warns(UserWarning, match=r"changed since the run was trained: reward r\.py"):
        rlalign.Run(own / "run").evaluate(prompts=2)
    (own / "r.py").write_text(_REWARD)


@pytest.mark.parametrize("algorithm", ["mymodule:preset", "rloo"])
def test_permissions_are_not_read_from_a_file(tmp_path, algorithm):
    settings = {"algorithm": algorithm, "allow_change": True, "trust_run": True, "model": {"trust_remote_code": True}}
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, **settings}))
    config = read_config(tmp_path)
    assert (config.allow_change, config.trust_run, config.model.trust_remote_code) == (False, False, False)
    if algorithm == "rloo":
        assert rlalign.Run(tmp_path, trust=True).config.model.trust_remote_code
        return
    with pytest.raises(UserError, match=r"runs code: algorithm mymodule:preset; read it"):
        check_trust(tmp_path, config)

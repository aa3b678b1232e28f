"""An export is whole or refused: kills at every moment, cut files, changed files, files of other programs."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlalign.cli.termination import exit_on_sigterm
from rlalign.errors import FaultError, UserError
from rlalign.export.whole_folder import MANIFEST, new_folder, read_export, write_manifest

ROOT = Path(__file__).parents[2]


def export(target):
    with new_folder(target) as folder:
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        write_manifest(folder, {"form": "hf"})
    return target


def test_a_whole_export_is_read(tmp_path):
    manifest = read_export(export(tmp_path / "out"))
    assert manifest["form"] == "hf"
    assert sorted(manifest["files"]) == ["adapter/adapter_config.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"weights" * 99), r"700 bytes in model.safetensors, got 693"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"Weights" * 100),
            r"model.safetensors as exported, sha256 \w{12}, got a changed file",
        ),
        (lambda f: (f / "adapter" / "adapter_config.json").unlink(), "adapter/adapter_config.json, got none"),
        (lambda f: (f / MANIFEST).unlink(), "half-written or from another program"),
        (lambda f: (f / MANIFEST).write_text('{"files": {'), "is damaged"),
        (lambda f: (f / MANIFEST).write_text("[]"), "manifest of version 1"),
        (lambda f: (f / "model-00002.safetensors").write_bytes(b""), "got model-00002.safetensors"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "got pytorch_model.bin"),
        (lambda f: (f / "chat_template.jinja").write_text("x"), "got chat_template.jinja"),
        (lambda f: (f / "adapter" / "model.py").write_text(""), "got adapter/model.py"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"a": {}}, "format_version": 1}'), "manifest of version 1"),
    ],
)
def test_a_damaged_export_is_refused_by_name(damage, message, tmp_path):
    damage(export(tmp_path / "out"))
    with pytest.raises(UserError, match=message):
        read_export(tmp_path / "out")


def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path):
    folder = export(tmp_path / "out")
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"\.\./secret"):
        read_export(folder)


def test_a_link_is_no_file_of_an_export(tmp_path):
    folder = export(tmp_path / "out")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")  # of the same content
    with pytest.raises(UserError, match=r"got the link model\.safetensors"):
        read_export(folder)


def test_files_that_a_hub_adds_may_be_there(tmp_path):
    folder = export(tmp_path / "out")
    (folder / ".gitattributes").write_text("")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("")
    assert read_export(folder)["form"] == "hf"


def test_a_run_is_named_as_one(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.json", "run.lock"):
        (tmp_path / "run" / name).write_text("{}")
    with pytest.raises(UserError, match=r"got the run '.*run'; use the folder that rlalign export"):
        read_export(tmp_path / "run")


def test_weights_have_the_permissions_of_new_files(tmp_path):
    def private():
        with new_folder(tmp_path / "out") as folder:
            (folder / "adapter").mkdir()
            for path in (folder / "model.safetensors", folder / "adapter" / "adapter_model.safetensors"):
                path.touch(mode=0o600)  # as safetensors does
            write_manifest(folder, {"form": "hf"})

    earlier = os.umask(0o027)
    try:
        private()
    finally:
        os.umask(earlier)
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o640, 0o640]
    assert not list((tmp_path / "out").glob(".mode-*"))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_removes_the_temporary_folder(kind, tmp_path):
    def ends():
        with exit_on_sigterm(), new_folder(tmp_path / "out") as folder:
            (folder / "model.safetensors").write_bytes(b"x")
            signal.raise_signal(kind)

    earlier = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            ends()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert list(tmp_path.iterdir()) == []


def test_an_export_goes_into_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export(Path())
    assert read_export(tmp_path / "out")["form"] == "hf"


def test_remains_are_removed_for_any_name(tmp_path):
    left = tmp_path / ".o[1].partial-999999999"  # brackets are a pattern of glob
    left.mkdir()
    export(tmp_path / "o[1]")
    assert not left.exists()


def test_an_error_of_a_loader_is_not_one_of_writing(tmp_path):
    def fails():
        with new_folder(tmp_path / "out"):
            raise OSError("no file named model.safetensors")  # as transformers does

    with pytest.raises(OSError, match=r"^no file named"):
        fails()


def test_an_error_leaves_nothing(tmp_path):
    def fails():
        with new_folder(tmp_path / "out") as folder:
            (folder / "model.safetensors").write_bytes(b"x")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_are_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    with pytest.raises(UserError, match="holds files"):
        export(tmp_path / "out")
    assert (tmp_path / "out" / "notes").read_text() == "mine"

    def second():
        with new_folder(tmp_path / "other") as folder:
            write_manifest(folder, {})
            (tmp_path / "other").mkdir()  # another export to the same place ends first
            (tmp_path / "other" / "first").write_text("")

    with pytest.raises(FaultError):
        second()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["first"]


KILLED = """
    import os, signal, sys
    import rlalign.export.whole_folder as whole
    from pathlib import Path
    target, moment = Path(sys.argv[1]), int(sys.argv[2])
    count = 0
    def counted(function):
        def call(*args, **kwargs):
            global count
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return function(*args, **kwargs)
        return call
    for name in ("fsync", "rename", "open"):
        setattr(os, name, counted(getattr(os, name)))
    with whole.new_folder(target) as folder:
        for name in ("a.safetensors", "b.safetensors"):
            (folder / name).write_bytes(b"x" * 1000)
        whole.write_manifest(folder, {"form": "hf"})
    print(count)
"""


def test_a_kill_at_any_moment_leaves_nothing_that_looks_whole(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))

    def run(moment):
        target = tmp_path / f"{moment}" / "out"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(script), str(target), str(moment)]
        return target, subprocess.run(command, env=environment, capture_output=True, text=True)

    target, ended = run(10_000)
    total = int(ended.stdout)
    assert total >= 9  # files, manifest, folders, the rename, and the folder above
    assert read_export(target)
    left = set()
    for moment in (0, 2, 4, 6, total - 3, total - 2, total - 1):
        target, ended = run(moment)
        assert ended.returncode == -signal.SIGKILL
        if target.exists():  # killed after the rename
            assert read_export(target)["form"] == "hf"
            left.add("whole")
        else:
            (partial,) = target.parent.iterdir()
            assert partial.name.startswith(".out.partial-")
            left.add("manifest" if (partial / MANIFEST).exists() else "partial")
        export_again = [path.name for path in export(target).parent.iterdir()] if not target.exists() else ["out"]
        assert export_again == ["out"]  # what a killed process has left is removed
    assert {"partial", "whole"} <= left

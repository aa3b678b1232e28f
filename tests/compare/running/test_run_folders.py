"""Run folders before a run starts: resumed from a checkpoint, cleared without one, rejected with unrelated files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlalign.cli import main
from rlalign.compare.running import run_folders
from rlalign.compare.running.progress_display import steps_of
from rlalign.compare.running.run_folders import prepare_run, refuse_other_run
from rlalign.compare.study import Study, build_cells
from rlalign.errors import UserError
from rlalign.storage.atomic import write_atomic
from rlalign.storage.run_folder import RunLock, write_config


def test_a_folder_with_unrelated_files_raises_an_error_and_is_unchanged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").touch()
    for command in ("compare --algorithms rloo --envs reverse", "tune"):
        assert main([*command.split(), "--output", "."]) == 2
        assert "got one with 'thesis.tex'; use another --output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_cell_without_a_checkpoint_starts_again_unless_a_process_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = build_cells(Study(("rloo",), ("reverse",), seeds=(0,), output=str(tmp_path)))
    (cell.folder / "report").mkdir(parents=True)
    (cell.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    write_config(cell.folder, cell.config)
    monkeypatch.setattr(run_folders, "_LOCK_TIMEOUT", 0.0)
    with pytest.raises(UserError, match="its checkpoints are missing or cannot be read"):
        prepare_run(cell.config)
    (cell.folder / "checkpoints").mkdir()  # a run makes it before its first step, and was killed before its first save
    with RunLock(cell.folder), pytest.raises(UserError, match="is in use by process"):
        prepare_run(cell.config)
    assert (cell.folder / "metrics.jsonl").exists()
    assert prepare_run(cell.config) == cell.config
    assert not cell.folder.exists()


def test_a_cell_with_a_checkpoint_is_resumed(tmp_path: Path) -> None:
    """Fails if the cell starts again, which would give the same weights but waste the saved steps."""
    (cell,) = build_cells(Study(("rloo",), ("reverse",), seeds=(0,), output=str(tmp_path)))
    write_config(cell.folder, cell.config)
    write_atomic(cell.folder / "checkpoints" / "step-2" / "manifest.json", "{}")
    write_atomic(cell.folder / "metrics.jsonl", '{"step": 1}\n{"step": 2}\n')
    assert prepare_run(cell.config) == replace(cell.config, resume=True)
    assert steps_of(cell.folder) == 2
    incomplete = cell.folder / "checkpoints" / "tmp-step-2"
    (cell.folder / "checkpoints" / "step-2").rename(incomplete)
    assert prepare_run(cell.config) == cell.config
    assert not cell.folder.exists()


def test_a_study_is_not_continued_over_data_that_has_changed(tmp_path: Path) -> None:
    from rlalign.config.schema import TrainConfig
    from rlalign.storage import checkpoint
    from rlalign.storage.identity import identity_of

    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a"}\n')
    config = TrainConfig(env=str(data), policy="gru", output=str(tmp_path / "cell"))
    (tmp_path / "cell").mkdir()
    write_config(tmp_path / "cell", config)
    folder = tmp_path / "cell" / "checkpoints"
    checkpoint.save(folder, 1, {}, config_hash="h", identity=identity_of(config))
    refuse_other_run(tmp_path / "cell", config)
    data.write_text('{"prompt": "b"}\n')
    with pytest.raises(UserError, match=r"another experiment \(changed: data data\.jsonl .*use another --output"):
        refuse_other_run(tmp_path / "cell", config)

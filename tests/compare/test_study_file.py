"""Studies in TOML files, and flags that override them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlalign.cli import main
from rlalign.cli.arguments import optional_value, split_settings
from rlalign.cli.compare import Args, study_of
from rlalign.compare.study import build_cells
from rlalign.compare.study_file import read_study
from rlalign.config.overrides import apply, full_key
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError

STUDY = """
algorithms = ["rloo", "grpo", "plain"]
envs = ["rlalign/Reverse-v0"]
seeds = 2
steps = 5
output = "out"

[settings]
lr = 1e-3

[algorithm.plain]
preset = "grpo"
"objective.scale" = "none"

[env."rlalign/Reverse-v0"]
rollout.group_size = 4
"""


def test_a_file_describes_settings_and_variants(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    cells = build_cells(read_study(path))
    assert [cell.name for cell in cells[:3]] == [f"reverse/{a}/seed-0" for a in ("rloo", "grpo", "plain")]
    assert len(cells) == 6
    plain, grpo = cells[2].config, cells[1].config
    assert (plain.algorithm, plain.objective.scale, grpo.objective.scale) == ("grpo", "none", "group_std")
    assert {cell.config.learner.lr for cell in cells} == {1e-3}
    assert {(cell.config.rollout.group_size, cell.config.samples_per_step) for cell in cells} == {(4, 128)}
    assert cells[3].folder == Path("out/cells/reverse/rloo/seed-1")
    assert cells[3].config.seed == 1


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study = study_of(Args(inputs=(path,), seeds="7,8", output=tmp_path), {"learner.lr": "0.5"})
    assert (study.seeds, study.output, study.steps) == ((7, 8), str(tmp_path), 5)
    assert build_cells(study)[0].config.learner.lr == 0.5


def test_settings_are_separated_from_flags() -> None:
    arguments = ["--envs", "reverse", "--learner.lr", "1e-3", "--jobs=2", "--objective.scale=none", "runs/a"]
    flags, settings = split_settings(arguments, {"--envs", "--jobs"})
    assert flags == ["--envs", "reverse", "--jobs=2", "runs/a"]
    assert settings == {"learner.lr": "1e-3", "objective.scale": "none"}
    with pytest.raises(UserError, match=r"--learner\.lr has no value"):
        split_settings(["--learner.lr", "--envs"], {"--envs"})
    _, settings = split_settings(["--reward", "./rm", "--reward=gold=0", "--steps", "2", "--steps", "3"], set())
    assert settings == {"rewards": ["./rm", "gold=0"], "steps": "3"}
    assert optional_value(["--ray", "--jobs", "2"], "--ray", "local") == ["--ray", "local", "--jobs", "2"]
    assert optional_value(["--ray", "a:1"], "--ray", "local") == ["--ray", "a:1"]


def test_short_names_and_types_of_settings() -> None:
    assert full_key("lr") == "learner.lr"
    assert full_key("group_size") == "rollout.group_size"
    config = apply(TrainConfig(), {"lr": "1", "group_size": "4", "rewards": "vader", "rollout.max_new": "12"})
    assert (config.learner.lr, config.rollout.group_size, config.rollout.prompts) == (1.0, 4, 8)
    assert (config.rewards, config.rollout.max_new) == (("vader",), 12)
    with pytest.raises(UserError, match=r"learner.lr: expected a number, got 'fast'"):
        apply(TrainConfig(), {"lr": "fast"})
    with pytest.raises(UserError, match=r"learner.epochs: expected a whole number, got 1.5"):
        apply(TrainConfig(), {"learner.epochs": "1.5"})
    with pytest.raises(UserError, match=r"Did you mean 'learner.lr'"):
        apply(TrainConfig(), {"learner.rl": "1"})
    with pytest.raises(UserError, match="does not divide the 32 samples per step"):
        apply(TrainConfig(), {"group_size": 5})


def test_the_error_of_a_file_without_a_study_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, wrong, latin = (tmp_path / f"{name}.toml" for name in ("broken", "wrong", "latin"))
    broken.write_text("algorithms = [")
    wrong.write_text('algorithms = ["rloo"]\nenvs = "reverse"')
    latin.write_bytes(b'policy = "\xe9"')
    for path, message in (
        (tmp_path / "nowhere.toml", "nowhere.toml' cannot be read (No such file or directory); check the path"),
        (tmp_path, "cannot be read (Is a directory)"),
        (broken, "broken.toml' is not a TOML file: "),
        (latin, "latin.toml' is not a TOML file: "),
        (wrong, "wrong.toml': envs: expected a list, got 'reverse'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            read_study(path)
    assert main(["train", "--config", str(tmp_path / "nowhere.toml")]) == 2
    assert "cannot be read (No such file" in capsys.readouterr().err

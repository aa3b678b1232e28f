"""What a study asks: its file, its command line, its cells, and what is refused before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlalign.cli import main
from rlalign.cli.arguments import optional_value, split_settings
from rlalign.cli.compare import Args, study_of
from rlalign.compare.analysis.fairness import check_budgets, differences
from rlalign.compare.records.manifest import fingerprint
from rlalign.compare.results.results_json import from_json, to_json
from rlalign.compare.run_study import compare_study
from rlalign.compare.running import grid
from rlalign.compare.running.grid import prepared
from rlalign.compare.study import TUNING_SEED, Study, cell_config, cells, check, from_mapping, label, read_study
from rlalign.compare.tuning.search import check_search
from rlalign.compare.tuning.spaces import distribution, parse_search
from rlalign.config.overrides import apply, full_key
from rlalign.config.schema import TrainConfig
from rlalign.envs.registration import env_id
from rlalign.errors import UserError
from rlalign.storage.run_folder import RunLock, write_config

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


def test_a_file_says_what_the_flags_say_and_more(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    found = cells(read_study(path))
    assert [c.name for c in found[:3]] == [f"reverse/{a}/seed-0" for a in ("rloo", "grpo", "plain")]
    assert len(found) == 6
    plain, grpo = found[2].config, found[1].config
    assert (plain.algorithm, plain.objective.scale, grpo.objective.scale) == ("grpo", "none", "group_std")
    assert {c.config.learner.lr for c in found} == {1e-3}
    assert {(c.config.rollout.group_size, c.config.samples_per_step) for c in found} == {(4, 128)}
    assert found[3].folder == Path("out/cells/reverse/rloo/seed-1")
    assert found[3].config.seed == 1


def test_an_environment_has_one_id_however_it_is_called() -> None:
    """Its cells would clash in one folder, or be two environments to `rlalign compare RUNS`."""
    spelt = ["guess_number", "GuessNumber", "rlalign/GuessNumber-v0"]
    found = [check(from_mapping({**ONE, "envs": [name], "env": {name: {"steps": 7}}})) for name in spelt]
    assert {(c.config.env, c.config.steps, c.env) for s in found for c in cells(s)} == {
        ("rlalign/GuessNumber-v0", 7, "guess_number")
    }
    with pytest.raises(UserError, match="environment 'guess_number' is named twice"):
        check(from_mapping({**ONE, "envs": spelt[:2]}))
    assert [env_id(e) for e in ("reverse?max_length=2", "own.py:Env", "tasks.jsonl", "revers")] == [
        "rlalign/Reverse-v0?max_length=2", "own.py:Env", "tasks.jsonl", "revers",
    ]  # fmt: skip
    assert label("rlalign/Reverse-v0?max_length=2") == label("reverse?max_length=2") == "reverse-max_length-2"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    study = study_of(Args(inputs=(path,), seeds="7,8", output=tmp_path), {"learner.lr": "0.5"})
    assert (study.seeds, study.output, study.steps) == ((7, 8), str(tmp_path), 5)
    assert cells(study)[0].config.learner.lr == 0.5


def test_settings_go_apart_from_flags() -> None:
    words = ["--envs", "reverse", "--learner.lr", "1e-3", "--jobs=2", "--objective.scale=none", "runs/a"]
    left, settings = split_settings(words, {"--envs", "--jobs"})
    assert left == ["--envs", "reverse", "--jobs=2", "runs/a"]
    assert settings == {"learner.lr": "1e-3", "objective.scale": "none"}
    with pytest.raises(UserError, match=r"--learner\.lr has no value"):
        split_settings(["--learner.lr", "--envs"], {"--envs"})
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


ONE: dict[str, object] = {"algorithms": ["rloo"], "envs": ["reverse"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"envs": ["reverse"]}, "names no algorithm: --algorithms"),
        ({"algorithms": ["rloo", "rloo"], "envs": ["reverse"]}, "algorithm 'rloo' is named twice"),
        ({"algorithms": ["rloo"], "envs": ["reverse", "rlalign/Reverse-v0"]}, "environment 'reverse' is named twice"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "seeds": [1, 1]}, "give different ones"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "seeds": [TUNING_SEED]}, "kept for tuning"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "sedes": 3}, "unknown setting 'sedes'.* Did you mean 'seeds'"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "algorithm": {"rlo": {}}}, "names none of the study's"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "settings": {"seed": 3}}, "use --seeds"),
        ({**ONE, "algorithm": {"rloo": {"env": "copy"}}}, "'env' says which cell a run is"),
        ({**ONE, "tune": {"trials": 2, "search": {"seed": "int:1:3"}}}, "'seed' says which cell a run is"),
        ({"algorithms": "rloo", "envs": ["reverse"]}, "algorithms: expected a list, got 'rloo'"),
        ({"algorithms": ["rloo"], "envs": "reverse"}, "envs: expected a list, got 'reverse'"),
        ({"algorithms": ["rloo"], "envs": [3]}, "envs: expected a text, got 3"),
        ({**ONE, "seeds": [True, 2]}, "seeds: expected an integer, got True"),
        ({**ONE, "seeds": ["1"]}, "seeds: expected an integer, got '1'"),
        ({**ONE, "seeds": "10"}, "seeds is '10': give how many, 1 or more, or a list of which"),
        ({**ONE, "seeds": True}, "seeds is True: give how many"),
        ({**ONE, "seeds": -3}, "seeds is -3: give how many"),
        ({**ONE, "seeds": 10**12}, "seeds is 1000000000000: give how many"),
        ({**ONE, "steps": "x"}, "steps: expected an integer, got 'x'"),
        ({**ONE, "threshold": "x"}, "threshold: expected a finite number, got 'x'"),
        ({**ONE, "threshold": float("nan")}, "threshold: expected a finite number, got nan"),
        ({**ONE, "settings": 3}, "settings: expected a table, got 3"),
        ({**ONE, "algorithm": {"rloo": "grpo"}}, "algorithm.rloo: expected a table, got 'grpo'"),
        ({**ONE, "tune": 5}, "tune: expected an object of settings, got 5"),
        ({**ONE, "tune": {"trials": "x"}}, "tune.trials: expected an integer, got 'x'"),
        ({**ONE, "tune": {"trails": 3}}, "unknown setting 'tune.trails'. Did you mean 'trials'"),
        ({**ONE, "tune": {"trials": 2, "search": {"lr": 3}}}, "tune.search.lr: expected a text, got 3"),
        ({**ONE, "tune": {"search": {"lr": "log:1e-4:1"}}}, "not how often: give --tune N"),
    ],
)
def test_a_study_that_cannot_be_answered_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(from_mapping(data))


def test_unknown_names_and_unfair_budgets_are_refused_before_anything_runs(tmp_path: Path) -> None:
    def study(**more: object) -> Study:
        given = {"algorithms": ["rloo", "grpo"], "envs": ["reverse"], "output": str(tmp_path / "out"), **more}
        return from_mapping(given)

    for broken, message in (
        (study(algorithms=["rlo"]), "Did you mean 'rloo'"),
        (study(envs=["revers"]), "Did you mean 'rlalign/Reverse-v0'"),
        (study(settings={"rewards": "vadr"}), "Did you mean 'vader'"),
        (study(algorithm={"grpo": {"steps": 7}}), "grpo on reverse has steps 7 where rloo has 200.*--allow-unequal"),
        (study(settings={"objective.ratio": "none", "learner.epochs": 2}), "on reverse: 2 epochs"),
        (study(policy="grru"), "unknown policy 'grru'. Did you mean 'gru'"),
        (study(policy="./nowhere"), "no folder './nowhere'"),
        (study(settings={"model.lora_r": 4}), "lora"),
        (study(algorithms=["grpo", "trl:grpo"]), "expected a transformers model for trl:grpo, got 'gru'"),
        (
            study(algorithms=["grpo", "trl:grpo"], envs=["guess_number"], policy="tiny"),
            "expected a single turn for TRL",
        ),
        (
            study(algorithms=["trl:grpo"], policy="tiny", settings={"objective.scale": "whiten"}),
            "objective.scale: expected batch_std, group_std or none for trl:grpo, got whiten",
        ),
        (study(settings={"supervised.align_interval": 1}, envs=["alignment"]), "answer"),
    ):
        with pytest.raises(UserError, match=message):
            compare_study(broken, command="")
        assert not (tmp_path / "out").exists()


def test_every_preset_gets_the_same_samples(tmp_path: Path) -> None:
    from rlalign.algorithms import ALGORITHMS

    study = Study(tuple(ALGORITHMS), ("reverse",), seeds=(0,), output=str(tmp_path))
    check_budgets(cells(study))
    assert {c.config.samples_per_step for c in cells(study)} == {128}


def test_differences_are_the_axes_first_and_nothing_that_is_equal() -> None:
    found = differences(cells(Study(("grpo", "dr_grpo"), ("reverse",), seeds=(0, 1))))
    assert {d.key for d in found if d.axis} == {"objective.scale", "objective.aggregation"}  # no KL term from scratch
    pretrained = Study(("grpo", "dr_grpo"), ("reverse",), seeds=(0,), settings={"objective.kl.coef": 0.1})
    assert found[0].axis
    assert "objective.kl.estimator" in {d.key for d in differences(cells(pretrained))}
    reuse = differences(cells(Study(("rloo", "ppo"), ("reverse",), seeds=(0,))))
    assert next(d for d in reuse if d.key == "learner.epochs").values == {"rloo": "1", "ppo": "4"}
    assert not next(d for d in reuse if d.key == "learner.epochs").axis


def test_the_fingerprint_is_of_the_question() -> None:
    one = Study(("rloo",), ("reverse",), seeds=(0, 1), output="a")
    same = Study(("rloo",), ("rlalign/Reverse-v0",), seeds=(0, 1), output="b")
    other = Study(("rloo",), ("reverse",), seeds=(0, 1), output="a", settings={"lr": 0.1})
    assert fingerprint(cells(one)) != fingerprint(cells(other))
    assert len({fingerprint(cells(s)) for s in (one, Study(("rloo",), ("reverse",), seeds=(0, 1), output="b"))}) == 1
    assert cells(same)[0].name == cells(one)[0].name


def test_spaces_of_a_search() -> None:
    assert parse_search(["lr=log:1e-4:1e-2"]) == {"learner.lr": "log:1e-4:1e-2"}
    assert distribution("x", "choice:4,0.5,none").choices == (4, 0.5, "none")
    assert distribution("x", "int:1:8").high == 8
    for space, message in (
        ("log:1e-2:1e-4", "LOW < HIGH"),
        ("lgo:1:2", "Did you mean 'log'"),
        ("uniform:1", "LOW:HIGH"),
        ("uniform:nan:1", "must be finite"),
        ("int:1.5:3", "LOW:HIGH"),
        ("int:1:2:3", "LOW:HIGH"),
        ("choice:", "choice:A,B,C"),
    ):
        with pytest.raises(UserError, match=message):
            distribution("x", space)
    with pytest.raises(UserError, match="no SETTING=SPACE"):
        parse_search(["lr"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("group_size=choice:4,5", "search for rollout.group_size: no run can have 5: rloo on reverse"),
        ("group_size=choice:4,x", "no run can have 'x'"),
        (
            "objective.baseline=choice:leave_one_out,none,men",
            "no run can have 'men': rloo on reverse",
        ),
        ("lr=uniform:-1:1", "search for learner.lr: no run can have -0.998"),
        ("seed=int:1:3", "'seed' says which cell a run is"),
        ("lrr=log:1e-4:1e-2", "unknown setting 'lrr'. Did you mean 'lr'"),
        ("zzz=log:1e-4:1e-2", "unknown setting 'zzz'. rlalign train --help lists them."),
    ],
)
def test_a_search_of_what_no_run_can_have_is_refused_before_the_first_trial(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    for command in (["tune"], ["compare", "--algorithms", "rloo", "--envs", "reverse", "--tune", "2"]):
        assert main([*command, "--search", words]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_values_that_need_one_another_are_not_refused() -> None:
    """A clipped ratio is impossible without the ratio, and two epochs as well: together they are a choice of two."""
    pytest.importorskip("optuna")
    study = Study(("rloo",), ("reverse",), seeds=(0,))
    spaces = {"objective.ratio": "choice:none,token", "objective.trust.kind": "choice:none,clip", "lr": "uniform:0:1"}
    check_search(lambda _, settings: cell_config(study, "reverse", "rloo", 0, settings), spaces)


def test_a_folder_that_holds_other_things_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").touch()
    for words in ("compare --algorithms rloo --envs reverse", "tune"):
        assert main([*words.split(), "--output", "."]) == 2
        assert "'.' holds other things ('thesis.tex')" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_trials_never_have_a_seed_of_a_comparison() -> None:
    study = Study(("rloo",), ("reverse",), seeds=(0,))
    assert cell_config(study, "reverse", "rloo", TUNING_SEED).seed == TUNING_SEED
    assert max(c.seed for c in cells(study)) < TUNING_SEED


def test_the_worked_example_is_read_and_written_unchanged() -> None:
    text = (Path(__file__).parents[1] / "data" / "results.json").read_text(encoding="utf-8")
    assert to_json(from_json(json.loads(text))) == text
    with pytest.raises(UserError, match="format 1"):
        from_json({})


def test_a_cell_without_a_checkpoint_begins_again_unless_a_process_still_works_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells(Study(("rloo",), ("reverse",), seeds=(0,), output=str(tmp_path)))
    (cell.folder / "report").mkdir(parents=True)
    (cell.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    write_config(cell.folder, cell.config)
    monkeypatch.setattr(grid, "_PATIENCE", 0.0)
    with RunLock(cell.folder), pytest.raises(UserError, match="is in use by process"):
        prepared(cell.config)
    assert (cell.folder / "metrics.jsonl").exists()
    assert prepared(cell.config) == cell.config
    assert not cell.folder.exists()


def test_a_file_that_is_no_study_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, wrong, latin = (tmp_path / f"{name}.toml" for name in ("broken", "wrong", "latin"))
    broken.write_text("algorithms = [")
    wrong.write_text('algorithms = ["rloo"]\nenvs = "reverse"')
    latin.write_bytes(b'policy = "\xe9"')
    for path, words in (
        (tmp_path / "nowhere.toml", "nowhere.toml' cannot be read (No such file or directory); check the path"),
        (tmp_path, "cannot be read (Is a directory)"),
        (broken, "broken.toml' is not a TOML file: "),
        (latin, "latin.toml' is not a TOML file: "),
        (wrong, "wrong.toml': envs: expected a list, got 'reverse'"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            read_study(path)
    assert main(["train", "--config", str(tmp_path / "nowhere.toml")]) == 2
    assert "cannot be read (No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--jobs", "-1"], "jobs is -1"),  # it would wait for ever for runs that it never starts
        (["--threshold", "nan"], "threshold: expected a finite number, got nan"),
        (["--steps", "0"], "steps: expected at least 1, got 0"),
        (["--ray", "nonsense"], "no Ray cluster at 'nonsense'"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    command = ["compare", "--algorithms", "rloo,grpo", "--envs", "reverse", "--output", str(tmp_path / "cmp")]
    assert main([*command, *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("runs/a runs/b --threshold nan", "threshold: expected a finite number, got nan"),
        ("runs/a --seeds 3", "runs that exist are taken as they are: leave out --seeds"),
        (
            "runs/a --steps 3 --policy gru --jobs 2",
            "runs that exist are taken as they are: leave out --policy, --steps, --jobs",
        ),
        (
            "runs/a --tune 3 --search lr=log:1:2 --ray",
            "runs that exist are taken as they are: leave out --ray, --tune, --search",
        ),
        (
            "runs/a --allow-unequal --learner.lr 3",
            "runs that exist are taken as they are: leave out --allow-unequal, --learner.lr",
        ),
        (
            "runs/a --algorithms rloo --envs reverse",
            "runs that exist are taken as they are: leave out --algorithms, --envs",
        ),
        ("--algorithms rloo --envs reverse --exclude-mixed", "a study makes its own runs: leave out --exclude-mixed"),
        ("study.toml runs/a", "'study.toml' is a study file"),
        ("nothere.toml", "'nothere.toml' cannot be read (No such file or directory)"),
        ("--algorithms rloo --envs reverse --seeds -3", "seeds is -3: give how many"),
        (
            "--algorithms rloo --envs reverse --seeds=",
            "--seeds: expected a number of seeds or a list, such as 10 or 0,1,2, got ''",
        ),
        ("--algorithms rloo --envs reverse --search lr=log:1:2", "not how often: give --tune N"),
    ],
)
def test_flags_that_would_be_ignored_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

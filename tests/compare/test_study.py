"""Studies: labels, cells, and errors of invalid studies."""

from __future__ import annotations

import pytest

from rlalign.compare.study import TUNING_SEED, Study, build_cells, cell_config, check_study, label
from rlalign.compare.study_file import study_from_mapping
from rlalign.envs.registration import env_id
from rlalign.errors import UserError

ONE: dict[str, object] = {"algorithms": ["rloo"], "envs": ["reverse"]}


def test_all_spellings_of_an_environment_give_one_id() -> None:
    """Otherwise its cells would share a folder, or be two environments to `rlalign compare RUNS`."""
    spellings = ["guess_number", "GuessNumber", "rlalign/GuessNumber-v0"]
    studies = [check_study(study_from_mapping({**ONE, "envs": [e], "env": {e: {"steps": 7}}})) for e in spellings]
    assert {(c.config.env, c.config.steps, c.env) for study in studies for c in build_cells(study)} == {
        ("rlalign/GuessNumber-v0", 7, "guess_number")
    }
    with pytest.raises(UserError, match="expected each environment once, got 'guess_number' twice"):
        check_study(study_from_mapping({**ONE, "envs": spellings[:2]}))
    assert [env_id(e) for e in ("reverse?max_length=2", "own.py:Env", "tasks.jsonl", "revers")] == [
        "rlalign/Reverse-v0?max_length=2", "own.py:Env", "tasks.jsonl", "revers",
    ]  # fmt: skip
    assert label("rlalign/Reverse-v0?max_length=2") == label("reverse?max_length=2") == "reverse-max_length-2"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"envs": ["reverse"]}, "expected at least one algorithm, got none; use --algorithms"),
        ({"algorithms": ["rloo", "rloo"], "envs": ["reverse"]}, "expected each algorithm once, got 'rloo' twice"),
        (
            {"algorithms": ["rloo"], "envs": ["reverse", "rlalign/Reverse-v0"]},
            "expected each environment once, got 'reverse' twice",
        ),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "seeds": [1, 1]}, "expected different seeds"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "seeds": [TUNING_SEED]}, "reserved for tuning"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "sedes": 3}, "unknown setting 'sedes'.* Did you mean 'seeds'"),
        ({**ONE, "algorithm": {"rlo": {}}}, "expected a name of the study, got 'rlo'. Did you mean 'rloo'"),
        ({"algorithms": ["rloo"], "envs": ["reverse"], "settings": {"seed": 3}}, "use --seeds"),
        ({**ONE, "algorithm": {"rloo": {"env": "copy"}}}, "got 'env', which identifies a cell; use --envs"),
        (
            {**ONE, "tune": {"trials": 2, "search": {"seed": "int:1:3"}}},
            "got 'seed', which identifies a cell; use --seeds",
        ),
        ({"algorithms": "rloo", "envs": ["reverse"]}, "algorithms: expected a list, got 'rloo'"),
        ({"algorithms": ["rloo"], "envs": "reverse"}, "envs: expected a list, got 'reverse'"),
        ({"algorithms": ["rloo"], "envs": [3]}, "envs: expected a text, got 3"),
        ({**ONE, "seeds": [True, 2]}, "seeds: expected an integer, got True"),
        ({**ONE, "seeds": ["1"]}, "seeds: expected an integer, got '1'"),
        ({**ONE, "seeds": "10"}, "seeds: expected a count of at least 1 or a list of seeds, got '10'"),
        ({**ONE, "seeds": True}, "a list of seeds, got True"),
        ({**ONE, "seeds": -3}, "a list of seeds, got -3"),
        ({**ONE, "seeds": 10**12}, "a list of seeds, got 1000000000000"),
        ({**ONE, "steps": "x"}, "steps: expected an integer, got 'x'"),
        ({**ONE, "threshold": "x"}, "threshold: expected a finite number, got 'x'"),
        ({**ONE, "threshold": float("nan")}, "threshold: expected a finite number, got nan"),
        ({**ONE, "settings": 3}, "settings: expected a table, got 3"),
        ({**ONE, "algorithm": {"rloo": "grpo"}}, "algorithm.rloo: expected a table, got 'grpo'"),
        ({**ONE, "tune": 5}, "tune: expected an object of settings, got 5"),
        ({**ONE, "tune": {"trials": "x"}}, "tune.trials: expected an integer, got 'x'"),
        ({**ONE, "tune": {"trails": 3}}, "unknown setting 'tune.trails'. Did you mean 'trials'"),
        ({**ONE, "tune": {"trials": 2, "search": {"lr": 3}}}, "tune.search.lr: expected a text, got 3"),
        ({**ONE, "tune": {"search": {"lr": "log:1e-4:1"}}}, "got 0; use --tune N"),
    ],
)
def test_an_invalid_study_raises_an_error(data: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_study(study_from_mapping(data))


def test_trials_use_other_seeds_than_the_comparison() -> None:
    study = Study(("rloo",), ("reverse",), seeds=(0,))
    assert cell_config(study, "reverse", "rloo", TUNING_SEED).seed == TUNING_SEED
    assert max(cell.seed for cell in build_cells(study)) < TUNING_SEED

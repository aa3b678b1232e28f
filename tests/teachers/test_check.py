"""Refusals of a teacher before any weight is loaded, and settings of distillation that nothing reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import fingerprint, update
from rlalign.config.unused_settings import unused_settings
from rlalign.config.validate import resolve, validate
from rlalign.errors import UserError
from rlalign.policies.factory import make_policy
from rlalign.storage.identity import identity_of
from rlalign.teachers.check import check_teacher
from rlalign.tokenizers import CharTokenizer


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a teacher."""
    path = tmp_path_factory.mktemp("big")
    make_policy("gru", tokenizer=CharTokenizer("abcd>")).save_pretrained(path)
    return str(path)


def config_of(algorithm: str = "distill", **changes: Any) -> TrainConfig:
    """Return a configuration; `__` in the name of a change is a dot."""
    base = default_config("reverse", "gru", algorithm)
    return resolve(update(base, {key.replace("__", "."): value for key, value in changes.items()}))


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("distill", {"teacher": None}, "distill learns from a teacher: expected one, got none; use --teacher"),
        ("seq_kd", {"teacher": None}, "seq_kd learns from a teacher"),
        ("distill", {"teacher": "./nowhere"}, "no folder './nowhere'"),
        ("distill", {"teacher": "gru"}, "a policy from scratch, whose weights are random"),
        ("distill", {"data": "rows.jsonl"}, "distillation samples its own; leave --data out"),
        ("distill", {"objective__kl__coef": 0.0}, "there is no KL term, through which the teacher acts"),
        ("seq_kd", {"objective__kl__where": "reward"}, "whose samples are imitated already"),
        ("seq_kd", {"objective__baseline": "group_mean"}, "has the reward 1"),
        ("seq_kd", {"objective__baseline": "ema"}, "has the reward 1"),
        ("distill", {"objective__kl__where": "loss"}, "estimator k1 in the loss has the expected gradient 0"),
        ("distill", {"rollout__top_k": 5}, "different supports"),
        ("distill", {"objective__baseline": "greedy"}, "read the environment's reward alone"),
        ("distill", {"evaluation__stop_kl": 1.0}, "use --evaluation.every 1"),
        ("distill", {"teacher": "http://h/v1?size=3"}, "unknown parameter 'size'"),
        ("distill", {"teacher": "http://h/v1", "rollout__temperature": 0.5}, "log-probs at temperature 1"),
        ("seq_kd", {"teacher": "http://h/v1"}, "expected a teacher that samples in this process"),
    ],
)
def test_what_distillation_cannot_use_is_refused(
    big: str, algorithm: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_teacher(config_of(algorithm, **{"teacher": big, **changes}))
    assert message in str(caught.value)


def test_a_valid_teacher_passes(big: str) -> None:
    for algorithm in ("distill", "seq_kd", "rloo"):
        config = config_of(algorithm, teacher=big)
        validate(config)
        check_teacher(config)
    with pytest.raises(UserError, match=r"distill\.reward_coef"):
        validate(config_of(teacher=big, distill__reward_coef=-1.0))


def test_settings_that_nothing_reads_are_named(big: str) -> None:
    assert list(unused_settings(config_of("rloo", teacher=big))) == ["teacher"]
    assert list(unused_settings(config_of("seq_kd", teacher=big, distill__reward_coef=0.5))) == ["distill.reward_coef"]
    assert unused_settings(config_of(teacher=big, distill__reward_coef=0.5)) == {}


def test_the_kl_to_the_teacher_stays_for_a_policy_from_scratch() -> None:
    assert config_of().objective.kl.coef == 1.0


def test_the_files_of_the_teacher_belong_to_the_identity(big: str) -> None:
    roles = identity_of(config_of(teacher=big)).keys()
    assert {role for role in roles if role.startswith("teacher ")} >= {"teacher policy.json", "teacher gru.safetensors"}
    assert not [role for role in identity_of(config_of(teacher="http://h/v1")) if "teacher" in role]


def test_runs_without_a_teacher_keep_their_fingerprint() -> None:
    config = config_of("rloo")
    assert fingerprint(config) == fingerprint(update(config, {"teacher": None}))
    assert fingerprint(config) != fingerprint(update(config, {"teacher": "big"}))


def test_a_run_folder_is_the_policy_in_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    make_policy("gru", tokenizer=CharTokenizer("ab")).save_pretrained(run / "policy")
    assert "teacher policy.json" in identity_of(config_of(teacher=str(run)))

"""Environment specs: parsing, short names, and resolving to a class."""

from pathlib import Path

import pytest

from rlalign.envs.builtin.strings.reverse import Reverse
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import env_id, find_env, make_mdp
from rlalign.envs.spec import EnvSpec


def test_parse_reads_arguments_as_numbers_booleans_or_texts() -> None:
    spec = EnvSpec.parse("reverse?max_length=3&share=0.5&strict=true&alphabet=ab")
    assert spec.target == "reverse"
    assert spec.arguments == {"max_length": 3, "share": 0.5, "strict": True, "alphabet": "ab"}


def test_parse_leaves_the_option_of_a_data_file_to_the_task_source() -> None:
    assert EnvSpec.parse("data.csv?prompt=question") == EnvSpec("data.csv?prompt=question")


def test_data_resolve_to_a_class_that_reads_nothing(tmp_path: Path) -> None:
    cls = find_env(str(tmp_path / "missing.csv"))
    assert isinstance(cls, type)
    assert issubclass(cls, TextMDP)
    assert cls.id == str(tmp_path / "missing.csv")


def test_env_id_keeps_arguments_and_other_specs() -> None:
    assert env_id("guess_number?seed=1") == "rlalign/GuessNumber-v0?seed=1"
    assert env_id("data.csv?prompt=question") == "data.csv?prompt=question"
    assert env_id("my.py:Env") == "my.py:Env"


@pytest.mark.parametrize("name", ["rlalign/Reverse-v0", "reverse", "REVERSE-V0", "Reverse-v0", "rlalign/reverse"])
def test_short_names(name: str) -> None:
    assert isinstance(make_mdp(name), Reverse)


def test_a_module_name_is_a_short_name() -> None:
    assert make_mdp("guess_number").id == "rlalign/GuessNumber-v0"


def test_find_env_ignores_arguments() -> None:
    assert find_env("reverse?max_length=3") is Reverse

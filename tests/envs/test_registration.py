"""Environment specs, registration, and the functions that make environments."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import rlalign
from rlalign.envs.builtin.strings.reverse import Reverse
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import find_env, make_env, make_mdp, make_vec
from rlalign.envs.task_sources import as_source
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UnknownNameError, UserError
from rlalign.registry import ENVS
from rlalign.tokenizers import ByteTokenizer


def vowels(completions: Any, **columns: Any) -> list[float]:
    return [float(sum(c in "aeiou" for c in text)) for text in completions]


def test_errors_of_names_suggest_a_fix() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rlalign/Sentiment-v0'"):
        make_mdp("sentment")
    with pytest.raises(UserError, match=r"Reverse-v0 has no argument 'max_lenght'. Did you mean 'max_length'"):
        make_mdp("reverse", max_lenght=5)
    with pytest.raises(UserError, match=r"got the file 'my_env\.py'; use my_env\.py:Class"):
        make_mdp("my_env.py")
    with pytest.raises(UserError, match="expected an environment, got <function"):
        find_env("rlalign.errors:did_you_mean")  # a function
    with pytest.raises(UnknownNameError, match="unknown reward"):
        make_mdp("reverse", rewards=["exact_mach"])


def test_arguments_reach_the_class_and_rewards_replace_its_own() -> None:
    mdp = make_mdp("reverse", max_length=6, max_new=20, rewards={"length?target=3": 0.5}, tokenizer="bytes")
    assert (mdp.max_new, len(mdp.tokenizer.encode("ab"))) == (20, 2)
    assert isinstance(mdp.tokenizer, ByteTokenizer)
    assert dict(mdp.reward.weights) == {"length": 0.5}
    assert list(make_mdp("reverse").reward.weights) == ["token_match", "exact_match"]
    assert make_mdp("reverse").has_reward
    assert not make_mdp("reverse", rewards=[]).has_reward


def test_a_built_environment_is_copied() -> None:
    mdp = make_mdp("reverse")
    other = make_mdp(mdp, max_new=9, tokenizer="bytes", rewards=[vowels])
    assert (other.max_new, list(other.reward.weights)) == (9, ["vowels"])
    assert (mdp.max_new, list(mdp.reward.weights)) == (Reverse().max_new, ["token_match", "exact_match"])
    with pytest.raises(UserError, match="built already"):
        make_mdp(mdp, alphabet="xy")


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("prompt,answer\n" + "\n".join(f"p{i},{i}" for i in range(10)))
    mdp = make_mdp(str(path), rewards=["exact_match"], max_new=8)
    assert mdp.id == str(path)
    assert mdp.max_new == 8
    assert mdp.source.size("train") == 8
    env = make_vec(str(path), 2, rewards=["exact_match"])
    env.reset(seed=0, options={"tasks": [mdp.source.get("train", 0)] * 2})
    answer = ByteTokenizer().encode(mdp.source.get("train", 0).columns["answer"])
    segment = env.step_tokens(np.array([[*answer, 256], [65, 256]]), np.array([2, 2]))
    assert segment.rewards[:, 1].tolist() == [1.0, 0.0]


def test_datasets_and_lists_are_environments() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": f"p{i}", "answer": str(i)} for i in range(10)]
    for data in (rows, datasets.Dataset.from_list(rows)):
        assert make_mdp(data, rewards=["exact_match"]).source.size("test") == 1


def test_a_class_in_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import rlalign\nfrom rlalign.envs.mdp import TextMDP\n"
        "@rlalign.env('mine/Hello-v0')\n"
        "class Hello(TextMDP):\n    'Hi.'\n    source = ['write hello', 'write bye', 'write yes']\n    max_new = 4\n"
        "    rewards = {'length?target=4': 1.0}\n"
        "def score(completions, **columns):\n    return [1.0 for _ in completions]\n"
    )
    try:
        mdp = make_mdp(f"{path}:Hello")
        assert (mdp.id, mdp.max_new) == ("mine/Hello-v0", 4)
        assert make_mdp("mine/hello").id == "mine/Hello-v0"
        assert gym.make("mine/Hello-v0").unwrapped.mdp.max_new == 4  # type: ignore[attr-defined]  # it has one, as made above
        with pytest.raises(UserError, match="expected an environment, got <function"):
            make_mdp(f"{path}:score")
        with pytest.raises(UserError, match="has no 'Helo'"):
            make_mdp(f"{path}:Helo")
    finally:
        ENVS._items.pop("mine/Hello-v0", None)
        gym.registry.pop("mine/Hello-v0", None)


def test_register_env_without_a_class() -> None:
    def tasks(rng: np.random.Generator) -> dict[str, str]:
        return {"prompt": f"write {rng.integers(10**6)}"}

    try:
        rlalign.register_env(
            "test/RandomPrompt-v0", source=tasks, rewards={"length": 1.0}, max_new=32, description="short"
        )
        rlalign.register_env("test/List-v0", source=[{"prompt": "a", "answer": "b"}], rewards={"exact_match": 1.0})
        mdp = make_mdp("random_prompt")
        assert (mdp.max_new, mdp.description, mdp.source.size("train")) == (32, "short", None)
        assert gym.make_vec("test/List-v0", num_envs=2, max_new=3).reset(seed=0)[0]["length"].tolist() == [2, 2]
        with pytest.raises(UserError, match="no argument 'max_nw'"):
            rlalign.register_env("test/X-v0", source=["a"], max_nw=3)
        with pytest.raises(UserError, match=r"expected an environment id such as my/Name-v0"):
            rlalign.register_env("no good", source=["a"])
    finally:
        for name in ("test/RandomPrompt-v0", "test/List-v0"):
            ENVS._items.pop(name, None)
            gym.registry.pop(name, None)


def test_the_decorator_raises_an_error_for_other_classes() -> None:
    with pytest.raises(UserError, match=r"expected a subclass of rlalign\.TextMDP"):
        rlalign.env("my/Int-v0")(int)  # type: ignore[type-var]  # wrong on purpose


def test_make_env_and_make_vec() -> None:
    assert isinstance(gym.make_vec("rlalign/Reverse-v0", num_envs=3), TokenVectorEnv)
    assert make_vec("reverse", 3).num_envs == 3
    env = make_env("reverse", split="test", render_mode="ansi")
    _, info = env.reset(seed=0)
    assert info["split"] == "test"
    assert env.render().endswith(">")
    assert isinstance(make_mdp(TextMDP, source=["a"]).source, type(as_source(["a"])))


def test_importing_environments_loads_no_heavy_library() -> None:
    code = (
        "import sys, rlalign.envs.registration, rlalign.checks\n"
        "from rlalign.registry import ENVS\n"
        # the games come from optional packages, which may import anything
        "some = set(ENVS) - {'rlalign/Games-v0', 'rlalign/TextWorld-v0'}\n"
        "for name in some: rlalign.envs.registration.make_mdp(name, rewards=[])\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(rlalign.__file__).parents[1])

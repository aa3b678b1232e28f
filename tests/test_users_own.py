"""Training with objects of users: TRL reward functions, files, datasets, environments."""

import json

import pytest

import rlalign
from rlalign import cli
from rlalign.errors import UserError

VOWELS = '''
def vowels(prompts, completions, **columns):
    """A reward function written for TRL."""
    return [float(sum(c in "aeiou" for c in text)) for text in completions]
'''
SMALL = {"steps": 2, "rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 2, "quiet": True}
FLAGS = ["--steps", "2", "--rollout.prompts", "2", "--rollout.group-size", "2", "--evaluation.prompts", "2"]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(VOWELS)
    return tmp_path


def test_a_trl_reward_function_from_a_file(workdir, capsys):
    arguments = ["--env", "sentiment", "--policy", "gru", "--reward", "my.py:vowels=0.5", "--output", "run"]
    assert cli.main(["train", *arguments, *FLAGS]) == 0
    run = rlalign.Run("run")
    assert run.config.rewards == ("my.py:vowels=0.5",)
    for mean, vowels in zip(run.metrics["reward/mean"], run.metrics["reward/vowels"], strict=True):
        assert mean == pytest.approx(0.5 * vowels)


def test_a_plus_adds_a_reward_to_those_of_the_environment(workdir, capsys):
    arguments = ["--env", "reverse", "--policy", "gru", "--reward", "+my.py:vowels=0.5", "--output", "run"]
    assert cli.main(["train", *arguments, *FLAGS]) == 0
    names = {n for n in rlalign.Run("run").metrics if n.startswith("reward/")}
    assert {"reward/token_match", "reward/exact_match", "reward/vowels"} <= names


def test_a_function_object_runs_in_rlalign_and_with_the_arguments_of_trl(tmp_path):
    def vowels(prompts, completions, **columns):
        return [float(sum(c in "aeiou" for c in text)) for text in completions]

    assert vowels(prompts=["p"], completions=["aei"], completion_ids=[[1]], trainer_state=None) == [3.0]
    run = rlalign.train("reverse", "gru", rewards=[vowels], output=tmp_path / "run", **SMALL)
    assert "reward/vowels" in run.metrics


def test_a_dataset_with_prompt_and_answer_columns(tmp_path):
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": f"{i} + {i} = ", "answer": str(2 * i)} for i in range(20)])
    run = rlalign.train(data, "gru", rewards=["exact_match"], output=tmp_path / "run", **SMALL)
    assert "reward/exact_match" in run.metrics


def test_a_jsonl_file_as_environment(workdir, capsys):
    rows = [{"prompt": f"repeat {i}: ", "answer": str(i)} for i in range(20)]
    (workdir / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--env", "data.jsonl", "--policy", "gru", "--reward", "exact_match", "--output", "run"]
    assert cli.main(["train", *arguments, *FLAGS]) == 0


def test_a_multi_turn_environment_in_a_file(workdir, capsys):
    (workdir / "echo.py").write_text("""
import rlalign

class Echo(rlalign.TextMDP):
    id = "my/Echo-v0"
    rewards = {"length": 1.0}
    source = [{"prompt": f"Write something {i}.\\n"} for i in range(9)]
    max_new, max_turns, max_reply = 4, 3, 32

    def reply(self, task, turn_ids, state, rng):
        return self.tokenizer.encode("and?\\n")
""")
    assert cli.main(["train", "--env", "echo.py:Echo", "--policy", "gru", "--output", "run", *FLAGS]) == 0
    assert cli.main(["check", "echo.py:Echo", "--episodes", "20"]) == 0


def test_guess_number_trains_over_several_turns(tmp_path):
    run = rlalign.train("GuessNumber", "gru", "ppo", output=tmp_path / "run", **SMALL)
    assert run.metrics["step"] == [1, 2]


def test_alignment_uses_the_embeddings_of_the_policy(tmp_path):
    run = rlalign.train("Alignment", "gru", output=tmp_path / "run", **SMALL)
    assert "reward/embedding_cosine" in run.metrics


def test_a_registered_environment_with_its_own_reward(tmp_path):
    @rlalign.reward("short", timeout_s=None)
    def short(completions, **columns):
        return [-float(len(c)) for c in completions]

    rlalign.register_env("my/Brief-v0", source=["a", "b", "c", "d"] * 3, rewards={"short": 1.0}, max_new=8)
    run = rlalign.train("my/Brief-v0", "gru", output=tmp_path / "run", **SMALL)
    assert run.metrics["reward/mean"] == run.metrics["reward/short"]


@pytest.mark.parametrize(("policy", "kind"), [("gru", "GRU"), ("tiny", "Llama")])
def test_a_saved_policy_loads_and_generates(tmp_path, policy, kind):
    from rlalign.rollout.generation import generate

    rlalign.train("reverse", policy, output=tmp_path / "run", **SMALL)
    loaded = rlalign.Run(tmp_path / "run")
    sampling = loaded.config.rollout.sampling
    generation = generate(loaded.policy, loaded.build_mdp(), "ab>", {"answer": "ba"}, sampling=sampling, seed=0)
    assert isinstance(generation.text, str)
    if policy == "tiny":
        from transformers import AutoModelForCausalLM

        assert kind in type(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")).__name__


def test_notebook_representation(tmp_path):
    run = rlalign.train("reverse", "gru", output=tmp_path / "run", **SMALL)
    assert "2 of 2 steps, reward" in repr(run)
    assert run._repr_png_().startswith(b"\x89PNG")
    assert len(run.samples) == 4


# ---- files that import their neighbors ----


@pytest.mark.parametrize("timeout", ["None", "30"], ids=["in-process", "worker"])
def test_a_reward_file_imports_its_neighbor(tmp_path, timeout):
    from rlalign.rewards import compose

    (tmp_path / f"neighbor_{timeout}.py").write_text("def size(text): return float(len(text))\n")
    (tmp_path / "mine.py").write_text(
        f"import rlalign\nfrom neighbor_{timeout} import size\n"
        f"@rlalign.reward('sized', timeout_s={timeout})\n"
        "def sized(completions, **columns):\n"
        f"    import neighbor_{timeout}\n"
        f"    return [neighbor_{timeout}.size(text) for text in completions]\n"
    )
    with compose([f"{tmp_path}/mine.py:sized"]) as total:
        assert total.score("episode", ["p"], ["abc"], [[1]]).total.tolist() == [3.0]


def test_an_environment_file_imports_its_neighbor(tmp_path):
    from rlalign.checks import check_env

    (tmp_path / "letters_of_mine.py").write_text("LETTERS = 'abcd'\n")
    (tmp_path / "game.py").write_text(
        "import rlalign\nfrom letters_of_mine import LETTERS\n"
        "def make(rng):\n    return {'prompt': ''.join(rng.choice(list(LETTERS), size=8)), 'answer': 'a'}\n"
        "class Game(rlalign.TextMDP):\n    source = make\n    rewards = {'exact_match': 1.0}\n    max_new = 3\n"
    )
    assert [r for r in check_env(rlalign.make_mdp(f"{tmp_path}/game.py:Game"), 8) if not r.passed] == []


def test_two_neighbors_of_one_name_are_refused(tmp_path):
    from rlalign.registry import load

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name_here.py").write_text(f"NAME = '{folder}'\n")
        (tmp_path / folder / "mine.py").write_text("from same_name_here import NAME\n")
    assert load(f"{tmp_path}/one/mine.py:NAME") == "one"
    with pytest.raises(UserError, match=r"two/mine.py' imports 'same_name_here' .*one/same_name_here.py' has been"):
        load(f"{tmp_path}/two/mine.py:NAME")

"""The prompts of a study without a data file, and the marks of cut completions in several turns."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlalign
from rlalign.errors import UserError
from rlalign.feedback.prompts import training_prompts
from rlalign.feedback.sampling import sample
from rlalign.feedback.study import read_study

STUDY = 'name = "one"\npolicies = ["a"]\n[sampling]\nsamples = 2\nmax_new = 3\n'
GUESS = """
from rlalign import TextMDP


class Guess(TextMDP):
    id = "user/Guess-v0"
    source = [{"prompt": f"{a}{b}: "} for a in "abcd" for b in "abcdef"]
    tokenizer = "chars:abcdef: ?"
    rewards = {"length": 1.0}
    max_new, max_turns, max_reply = 3, 2, 2

    def reply(self, task, turn_ids, state, rng):
        return "?"
"""


def trained(folder: Path, env: str) -> None:
    settings = {"steps": 1, "quiet": True, "rollout.prompts": 2, "evaluation.prompts": 2, "model.hidden_size": 16}
    rlalign.train(env=env, policy="gru", output=str(folder / "a"), **settings)


def test_a_study_without_prompts_has_the_training_prompts_of_its_policy(tmp_path: Path) -> None:
    trained(tmp_path, "Preference")
    (tmp_path / "study.toml").write_text("count = 5\n" + STUDY)
    content = sample(read_study(tmp_path / "study.toml"), tmp_path)
    source = rlalign.make_mdp("Preference").source
    assert [m[0]["content"] for m, _ in content.prompts] == [source.get("train", i).prompt for i in range(5)]
    assert len(content.completions) == 10
    assert len(training_prompts(tmp_path / "a", 0)) == source.size("train")


def test_an_environment_without_a_last_prompt_needs_a_count(tmp_path: Path) -> None:
    trained(tmp_path, "sort")
    with pytest.raises(UserError, match="'count': expected a number of prompts"):
        training_prompts(tmp_path / "a", 0)
    assert len(training_prompts(tmp_path / "a", 3)) == 3


def test_the_last_turn_of_an_episode_that_the_limit_of_turns_ended_is_no_cut_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward model scores it as finished, so its training must see the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guess.py").write_text(GUESS)
    trained(tmp_path, "guess.py:Guess")
    (tmp_path / "study.toml").write_text("count = 4\n" + STUDY)
    content = sample(read_study(tmp_path / "study.toml"), tmp_path, trust_run=True)
    assert all("\n" in completion.text for completion in content.completions)  # two turns
    assert not any(completion.cut for completion in content.completions)

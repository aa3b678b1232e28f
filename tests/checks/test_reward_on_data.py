"""The checks of a reward on real data, in the form of texts and of messages."""

import pytest

import rlalign
from rlalign import cli
from rlalign.checks import check_reward, check_reward_on_data
from rlalign.errors import UserError
from rlalign.rewards.function import RewardFunction

TEXTS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(12)]
CHAT = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in TEXTS]


def contains(completions, answer, **columns):
    """Find the answer in the text: in a list of messages it never is."""
    return [float(right in completion) for completion, right in zip(completions, answer, strict=True)]


def by_role(completions, answer, **columns):
    """Read messages only."""
    return [float(c[0]["content"] == right) for c, right in zip(completions, answer, strict=True)]


def vowels(prompts, completions, **columns):
    """The first example of README."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]


def in_process(function, **settings):
    return RewardFunction(function.__name__, function, timeout_s=None, **settings)


def by_check(function, data, **settings):
    """Return name -> result."""
    return {result.name: result for result in check_reward_on_data(in_process(function, **settings), data, tasks=6)}


def test_a_reward_of_texts_fails_on_conversations_with_the_cause():
    results = by_check(contains, CHAT)
    assert not results["scores differ"].passed
    assert (
        "all 36 completions, sampled and reference, score 0, so nothing can be learned"
        in results["scores differ"].detail
    )
    assert "use @rlalign.reward(texts=True)" in results["texts and messages score equally"].detail
    assert not results["texts and messages score equally"].passed
    [result] = by_check(vowels, CHAT).values()
    assert not result.passed
    assert "likely cause: the reward reads a completion as a text" in result.detail


def test_the_form_that_the_data_does_not_have_is_a_warning():
    for function, data in ((contains, TEXTS), (vowels, TEXTS), (by_role, CHAT)):
        results = by_check(function, data)
        assert all(result.passed for result in results.values())
        assert results["texts and messages score equally"].warning


@pytest.mark.parametrize("data", [TEXTS, CHAT], ids=["texts", "messages"])
@pytest.mark.parametrize("function", [contains, vowels])
def test_texts_passes_texts_in_both_forms(function, data):
    results = by_check(function, data, texts=True)
    assert all(result.passed for result in results.values())
    assert results["texts and messages score equally"].detail == ""
    if function is contains:
        assert "reference 1," in results["mean scores"].detail


def test_references_are_played_over_several_turns_and_limits_are_reported():
    results = {
        r.name: r for r in check_reward_on_data("rlalign.envs.builtin.multi_turn.guess_number:won", "guess_number")
    }
    assert "reference 1," in results["mean scores"].detail
    cut = {r.name: r for r in check_reward_on_data("exact_match", rlalign.make_mdp(TEXTS, max_new=2))}["mean scores"]
    assert cut.warning
    assert "references were cut at max_new, 2 tokens" in cut.detail


def test_sampled_completions_of_one_score_are_a_warning():
    results = {r.name: r for r in check_reward_on_data("exact_match", TEXTS, tasks=6)}
    assert "a run learns nothing" in results["scores of sampled completions differ"].detail


def test_a_group_reward_and_a_reward_without_its_column():
    def rank(completions, group_ids, **columns):
        return [float(len(text)) for text in completions]

    assert by_check(rank, TEXTS, scope="group")["scores differ"].passed
    [result] = check_reward_on_data("exact_match", [{"prompt": f"{i}"} for i in range(9)])
    assert "expected 'answer' as a column" in result.detail
    with pytest.raises(UserError, match="tasks: expected at least 2, got 1"):
        check_reward_on_data("exact_match", TEXTS, tasks=1)


# ---- rlalign check REWARD ----


def test_without_data_a_reward_of_texts_gets_a_warning():
    forms = check_reward(in_process(vowels))[-1]
    assert forms.passed
    assert forms.warning
    assert "for prompts that are conversations" in forms.detail
    assert not check_reward(in_process(vowels, texts=True))[-1].warning
    assert not check_reward("repetition")[-1].warning


OBJECTS = """
import threading
import rlalign

class Score:
    def __call__(self, completions, **columns):
        return [float(len(text)) for text in completions]

class Locked(Score):
    def __init__(self):
        self.lock = threading.Lock()

score, locked = Score(), Locked()
"""


@pytest.fixture
def objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "objects.py").write_text(OBJECTS)


def test_a_callable_object_is_a_reward_and_not_an_environment(objects, capsys):
    assert cli.main(["check", "objects.py:score"]) == 0
    assert "any text can be scored" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"expected an environment, got <.*Score"):
        rlalign.make_mdp("objects.py:score")


def test_a_function_that_cannot_be_pickled_fails(objects, capsys):
    assert cli.main(["check", "objects.py:locked"]) == 1
    assert "reward 'locked' cannot be pickled: TypeError" in capsys.readouterr().out


def test_the_command_runs_a_reward_on_an_environment(objects, capsys):
    assert cli.main(["check", "objects.py:score", "--env", "reverse"]) == 0
    out = capsys.readouterr().out
    assert "passed scores differ" in out
    assert "warning texts and messages score equally" in out
    assert cli.main(["check", "all", "--env", "reverse"]) == 2
    assert "--env: expected a reward to run on it, got 'all'" in capsys.readouterr().err

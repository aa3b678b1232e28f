"""The warning about a run whose samples have had the same reward since the first step."""

import json

import pytest

import rlalign
from rlalign.log.equal_rewards import equal_rewards, first_equal_step, largest_reward, warning_of

ROW = {"reward/mean": 0.0, "reward/std": 0.0, "rollout/truncated": 0.75}


def test_equal_rewards_of_all_steps_are_reported_with_the_share_of_cut_completions():
    message = equal_rewards([ROW] * 10, largest=1.0)
    assert "has the reward 0," in message
    assert "75% were cut" in message
    assert equal_rewards([ROW] * 10, largest=None)


@pytest.mark.parametrize(
    "rows",
    [
        [ROW] * 9,
        [*[ROW] * 9, {**ROW, "reward/std": 0.1}],
        [*[ROW] * 9, {**ROW, "reward/mean": 0.1}],  # equal within the step only
        [*[ROW] * 9, {**ROW, "reward/mean": None, "reward/std": None}],
        [{**ROW, "reward/mean": 1.0}] * 10,  # solved
    ],
    ids=["too few steps", "one sample differs", "one step differs", "a step without a valid reward", "solved"],
)
def test_no_warning(rows):
    assert equal_rewards(rows, largest=1.0) == ""


GROUPS = {**ROW, "reward/mean": 0.5, "reward/std": 0.5, "rollout/zero_variance": 1.0}
VARIED = {**ROW, "reward/mean": 0.5, "reward/std": 0.5, "rollout/zero_variance": 0.5}


def test_the_first_step_of_equal_rewards_is_reported_once():
    message = first_equal_step([VARIED, {**ROW, "step": 2}], None, groups=True)
    assert message.startswith("step 2: every sample has the reward 0, so no completion is better than another")
    assert "75% were cut" in message
    assert "rlalign check REWARD --env ENV" in message
    assert "\n" not in message
    assert first_equal_step([ROW, VARIED, ROW], None, groups=True) == ""


@pytest.mark.parametrize("last", [ROW, GROUPS], ids=["samples", "groups"])
def test_no_warning_if_the_mean_reward_has_risen_since_the_first_step(last):
    first = {**VARIED, "reward/mean": -0.5}
    solved = {**last, "reward/mean": 1.0}
    assert first_equal_step([first, solved], None, groups=True) == ""
    assert first_equal_step([{**first, "reward/mean": None}, first, solved], None, groups=True) == ""
    assert first_equal_step([first, solved, {**last, "reward/mean": -0.5}], None, groups=True)  # the policy collapsed
    assert first_equal_step([VARIED, {**last, "reward/mean": 0.5}], None, groups=True)


def test_equal_groups_are_reported_if_the_baseline_compares_groups():
    message = first_equal_step([GROUPS], None, groups=True)
    assert message.startswith("step 1: the samples of each group have equal rewards")
    assert first_equal_step([GROUPS], None, groups=False) == ""
    mdp = rlalign.make_mdp("reverse")
    assert warning_of(1, [GROUPS], mdp, "leave_one_out")
    assert warning_of(1, [GROUPS], mdp, "none") == ""


@pytest.mark.parametrize(
    "row",
    [VARIED, {**ROW, "reward/mean": 1.0}, {**ROW, "reward/mean": None}, {**GROUPS, "rollout/zero_variance": None}],
    ids=["rewards differ", "solved", "no valid reward", "groups of one"],
)
def test_no_warning_at_a_step(row):
    assert first_equal_step([row], 1.0, groups=True) == ""


def test_the_warning_names_a_reward_that_gets_messages():
    def contains(completions, answer, **columns):
        return [float(right in text) for right, text in zip(answer, completions, strict=True)]

    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}], "answer": str(i)} for i in range(9)]
    mdp = rlalign.make_mdp(rows, rewards=[contains])
    assert "'contains' reading texts (the prompts are conversations" in warning_of(1, [ROW], mdp, "none")
    as_texts = rlalign.reward("contains_in_texts", texts=True)(contains)
    assert "conversations" not in warning_of(1, [ROW], rlalign.make_mdp(rows, rewards=[as_texts]), "none")
    assert "conversations" not in warning_of(1, [ROW], rlalign.make_mdp(rows, rewards=["exact_match"]), "none")


def test_the_largest_reward_is_known_from_ranges_or_gold():
    sums = [{"prompt": "1+1=", "answer": "2"}]
    assert largest_reward(rlalign.make_mdp(sums, rewards=["exact_match", "token_match=0.5"])) == 1.5
    constant = [lambda completions, **columns: [0.0 for _ in completions]]
    assert largest_reward(rlalign.make_mdp(sums, rewards=constant)) is None
    gold = type("Gold", (rlalign.TextMDP,), {"source": sums, "gold_score": 2.0})
    assert largest_reward(rlalign.make_mdp(gold, rewards=constant)) == 2.0


def test_a_run_that_never_gets_a_reward_warns_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{i}=", "answer": "no completion has this text"} for i in range(20)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rlalign.train(
        "data.jsonl?max_new=4", "gru", rewards=["exact_match"], steps=12, output="run",
        rollout__prompts=2, evaluation__prompts=2,
    )  # fmt: skip
    out = capsys.readouterr()
    assert (out.out + out.err).count("every sample of the first 10 steps has the reward 0") == 1
    assert "".join((out.out + out.err).split()).count("step1:everysamplehasthereward0") == 1

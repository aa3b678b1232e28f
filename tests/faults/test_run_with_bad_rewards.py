"""Runs with a reward that raises, hangs, or returns None, infinities or the wrong number of values."""

import subprocess
import sys

import pytest

import rlalign
from rlalign import cli
from rlalign.errors import RewardError
from rlalign.storage import checkpoint

SMALL = {"steps": 3, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 2, "quiet": True}
TOLERANT = {"learner__max_bad_updates": 9}


def train(folder, function, **described):
    """Train with this function and token_match as rewards; the run tolerates skipped updates."""
    reward = rlalign.reward("mine", **{"timeout_s": None, "retries": 0, **described})(function)
    return rlalign.train("reverse", "gru", rewards=[reward, ("token_match", 1.0)], output=folder, **SMALL, **TOLERANT)


def raises(completions, **columns):
    raise ValueError("no scorer")


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def test_a_raising_reward_ends_the_run_with_a_checkpoint_to_resume(tmp_path):
    calls = []

    def later(completions, **columns):
        calls.append(1)
        return lengths(completions) if len(calls) < 3 else raises(completions)

    with pytest.raises(RewardError, match=r"mine.*no scorer.*--resume"):
        train(tmp_path / "run", later)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step-1"


def test_a_raising_reward_with_drop_is_counted_and_gives_no_gradient(tmp_path):
    run = train(tmp_path / "run", raises, on_error="drop")
    assert run.metrics["reward/invalid"] == [1.0] * 3
    assert run.metrics["reward/mine/raised"][-1] >= 1
    assert run.metrics["train/grad_norm"] == [0.0] * 3
    assert run.metrics["reward/mean"] == [None] * 3  # never a 0.0


def test_steps_without_a_valid_reward_end_the_run(tmp_path):
    """Without the limit, such a run would finish normally with untrained weights."""
    returned = {}

    def constant(completions, **columns):
        return [returned.get("value", float("nan"))] * len(completions)

    reward = rlalign.reward("mine", timeout_s=None)(constant)
    settings = {**SMALL, "steps": 4, "learner__max_bad_updates": 2}
    with pytest.warns(RuntimeWarning, match="NaN for a whole batch"), pytest.raises(RewardError) as caught:
        rlalign.train("reverse", "gru", rewards=[reward], output=tmp_path / "run", **settings)
    assert "step 2: no sample has a valid reward (mine/nan: 8)" in str(caught.value)
    assert "2 in a row, so the run stops" in str(caught.value)
    assert "--resume" in str(caught.value)
    returned["value"] = 1.0
    run = rlalign.train("reverse", "gru", rewards=[reward], output=tmp_path / "run", resume=True, **settings)
    assert run.metrics["step"] == [1, 2, 3, 4]
    assert run.metrics["reward/mean"] == [None, 1.0, 1.0, 1.0]


def test_an_abandoned_step_does_not_change_the_multipliers(tmp_path):
    """The step is repeated after a resume, so its samples must not update the constraint twice."""
    valid = rlalign.reward("valid", timeout_s=None)(lambda completions, **columns: [1.0] * len(completions))
    broken = rlalign.reward("broken", timeout_s=None)(lambda completions, **columns: [float("nan")] * len(completions))
    rewards = [(valid, rlalign.rewards.Constraint(0.1)), broken]
    settings = {**SMALL, "learner__max_bad_updates": 1}
    with pytest.warns(RuntimeWarning, match="NaN"), pytest.raises(RewardError, match="1 in a row"):
        rlalign.train("reverse", "gru", rewards=rewards, output=tmp_path / "run", **settings)
    state, _ = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert state["progress"]["reward"] == {"valid": 0.0}


def test_on_error_value_replaces_the_reward_of_a_failed_call(tmp_path):
    run = train(tmp_path / "run", raises, on_error=-1.0)
    assert run.metrics["reward/mine"] == [-1.0] * 3
    assert run.metrics["reward/invalid"] == [0.0] * 3


def test_a_retry_recovers_from_a_single_failure(tmp_path):
    calls = []

    def flaky(completions, **columns):
        calls.append(1)
        return raises(completions) if len(calls) % 2 else lengths(completions)

    run = train(tmp_path / "run", flaky, retries=1)
    assert run.metrics["reward/invalid"] == [0.0] * 3


def test_a_hanging_reward_is_killed_and_the_run_continues(tmp_path):
    def hangs(completions, **columns):
        import time

        time.sleep(10**6)

    run = train(tmp_path / "run", hangs, timeout_s=0.5, on_error="drop")
    assert run.metrics["reward/mine/timeout"][-1] >= 1
    assert run.metrics["step"] == [1, 2, 3]


def test_none_for_some_samples_skips_that_component_for_them(tmp_path):
    run = train(tmp_path / "run", lambda completions, **c: [None if i % 2 else 1.0 for i in range(len(completions))])
    assert run.metrics["reward/mine"] == [1.0] * 3
    assert run.metrics["reward/invalid"] == [0.0] * 3  # token_match still applies


def test_none_for_all_samples_gives_no_gradient_and_no_error(tmp_path):
    none = rlalign.reward("none", timeout_s=None)(lambda completions, **columns: [None] * len(completions))
    run = rlalign.train("reverse", "gru", rewards=[none], output=tmp_path / "run", **SMALL, **TOLERANT)
    assert run.metrics["reward/invalid"] == [1.0] * 3
    assert run.metrics["train/grad_norm"] == [0.0] * 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: [float("inf")] * n, "reward 'mine'.*inf"),
        (lambda n: [1.0] * (n - 1), r"reward 'mine'.*\b2\b.*\b1\b"),
        (lambda n: "x" * n, "reward 'mine'.*str"),
        (lambda n: ["good"] * n, "reward 'mine'.*str"),
        (lambda n: None, "reward 'mine'.*None"),
    ],
)
def test_invalid_return_values_raise_an_error_that_names_the_reward(tmp_path, returned, message):
    with pytest.raises(RewardError, match=message):
        train(tmp_path / "run", lambda completions, **columns: returned(len(completions)))


def test_groups_without_reward_variance_have_zero_gradient_and_are_counted(tmp_path):
    constant = rlalign.reward("constant", timeout_s=None)(lambda completions, **columns: [1.0] * len(completions))
    run = rlalign.train("reverse", "gru", "grpo", rewards=[constant], output=tmp_path / "run", **SMALL)
    assert run.metrics["rollout/signal"] == [0.0] * 3
    assert run.metrics["train/grad_norm"] == [0.0] * 3


def test_the_command_prints_one_line_and_exits_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def bad(completions, **columns):\n    return [1.0]\n")
    arguments = ["--env", "reverse", "--policy", "gru", "--reward", "bad.py:bad", "--steps", "2", "--output", "run"]
    assert cli.main(["train", *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert "reward 'bad'" in err[0]


def test_a_reward_that_closes_the_files_of_the_run_ends_it_with_a_saved_state(tmp_path):
    """In a process of its own, since it closes the descriptors of this one too."""
    code = """
import os, sys
import rlalign
from rlalign.errors import RewardError

calls = []

def closes(completions, **columns):
    calls.append(1)
    if len(calls) == 3:
        os.closerange(3, 256)
    return [1.0] * len(completions)

reward = rlalign.reward("mine", timeout_s=None, on_error="drop")(closes)
small = {"steps": 3, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 2, "quiet": True}
try:
    rlalign.train("reverse", "gru", rewards=[reward], output="run", **small)
except RewardError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "reward 'mine' failed: it closed file descriptors" in ended.stdout
    assert "(saved: repair the reward" in ended.stdout
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step-1"

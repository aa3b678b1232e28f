"""What a whole run does when its reward misbehaves: raises, hangs, returns None, infinities or the wrong length."""

import pytest

import rlalign
from rlalign import cli
from rlalign.errors import RewardError
from rlalign.storage import checkpoint

SMALL = {"steps": 3, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 2, "quiet": True}
PATIENT = {"learner__max_bad_updates": 9}


def train(folder, function, **described):
    made = rlalign.reward("mine", **{"timeout_s": None, "retries": 0, **described})(function)
    return rlalign.train("reverse", "gru", rewards=[made, ("token_match", 1.0)], output=folder, **SMALL, **PATIENT)


def raises(completions, **columns):
    raise ValueError("no scorer")


def lengths(completions, **columns):
    return [float(len(c)) for c in completions]


def test_raising_ends_the_run_with_a_checkpoint_to_go_on_from(tmp_path):
    calls = []

    def later(completions, **columns):
        calls.append(1)
        return lengths(completions) if len(calls) < 3 else raises(completions)

    with pytest.raises(RewardError, match=r"mine.*no scorer.*--resume"):
        train(tmp_path / "run", later)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step-1"


def test_raising_with_drop_gives_no_gradient_and_is_counted(tmp_path):
    run = train(tmp_path / "run", raises, on_error="drop")
    assert run.metrics["reward/invalid"] == [1.0] * 3
    assert run.metrics["reward/mine/raised"][-1] >= 1
    assert run.metrics["train/grad_norm"] == [0.0] * 3
    assert run.metrics["reward/mean"] == [None] * 3  # never a 0.0


def test_steps_without_one_valid_reward_end_the_run(tmp_path):
    """Kills a run that learns nothing for all its steps and says that it is done."""
    nothing = {}

    def absent(completions, **columns):
        return [nothing.get("value", float("nan"))] * len(completions)

    made = rlalign.reward("mine", timeout_s=None)(absent)
    settings = {**SMALL, "steps": 4, "learner__max_bad_updates": 2}
    with pytest.warns(RuntimeWarning, match="NaN for a whole batch"), pytest.raises(RewardError) as found:
        rlalign.train("reverse", "gru", rewards=[made], output=tmp_path / "run", **settings)
    assert "no sample has a valid reward (mine/nan: 8)" in str(found.value)
    assert "2 in a row, so the run stops" in str(found.value)
    assert "--resume" in str(found.value)
    nothing["value"] = 1.0
    run = rlalign.train("reverse", "gru", rewards=[made], output=tmp_path / "run", resume=True, **settings)
    assert run.metrics["step"] == [1, 2, 3, 4]
    assert run.metrics["reward/mean"] == [None, 1.0, 1.0, 1.0]


def test_a_step_that_is_given_up_moves_no_multiplier(tmp_path):
    """Kills a constraint that follows samples of a step which is played again after the mend."""
    whole = rlalign.reward("whole", timeout_s=None)(lambda completions, **columns: [1.0] * len(completions))
    broken = rlalign.reward("broken", timeout_s=None)(lambda completions, **columns: [float("nan")] * len(completions))
    rewards = [(whole, rlalign.rewards.Constraint(0.1)), broken]
    settings = {**SMALL, "learner__max_bad_updates": 1}
    with pytest.warns(RuntimeWarning, match="NaN"), pytest.raises(RewardError, match="1 in a row"):
        rlalign.train("reverse", "gru", rewards=rewards, output=tmp_path / "run", **settings)
    state, _ = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    assert state["progress"]["reward"] == {"whole": 0.0}


def test_raising_with_a_value_takes_it(tmp_path):
    run = train(tmp_path / "run", raises, on_error=-1.0)
    assert run.metrics["reward/mine"] == [-1.0] * 3
    assert run.metrics["reward/invalid"] == [0.0] * 3


def test_a_retry_mends_what_fails_once(tmp_path):
    calls = []

    def flaky(completions, **columns):
        calls.append(1)
        return raises(completions) if len(calls) % 2 else lengths(completions)

    run = train(tmp_path / "run", flaky, retries=1)
    assert run.metrics["reward/invalid"] == [0.0] * 3


def test_hanging_is_killed_and_the_run_goes_on(tmp_path):
    def hangs(completions, **columns):
        import time

        time.sleep(10**6)

    run = train(tmp_path / "run", hangs, timeout_s=0.5, on_error="drop")
    assert run.metrics["reward/mine/timeout"][-1] >= 1
    assert run.metrics["step"] == [1, 2, 3]


def test_none_for_some_is_left_out_of_that_component(tmp_path):
    run = train(tmp_path / "run", lambda completions, **c: [None if i % 2 else 1.0 for i in range(len(completions))])
    assert run.metrics["reward/mine"] == [1.0] * 3
    assert run.metrics["reward/invalid"] == [0.0] * 3  # token_match still applies


def test_none_for_all_is_no_gradient_and_no_crash(tmp_path):
    none = rlalign.reward("none", timeout_s=None)(lambda completions, **columns: [None] * len(completions))
    run = rlalign.train("reverse", "gru", rewards=[none], output=tmp_path / "run", **SMALL, **PATIENT)
    assert run.metrics["reward/invalid"] == [1.0] * 3
    assert run.metrics["train/grad_norm"] == [0.0] * 3


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda n: [float("inf")] * n, "reward 'mine'.*inf"),
        (lambda n: [1.0] * (n - 1), r"reward 'mine'.*\b2\b.*\b1\b"),
        (lambda n: "x" * n, "reward 'mine'.*str"),
        (lambda n: ["good"] * n, "reward 'mine'.*str"),
        (lambda n: None, "reward 'mine'.*None"),
    ],
)
def test_nonsense_is_refused_by_name(tmp_path, returned, said):
    with pytest.raises(RewardError, match=said):
        train(tmp_path / "run", lambda completions, **columns: returned(len(completions)))


def test_a_group_without_variance_has_zero_gradient_and_is_counted(tmp_path):
    one = rlalign.reward("one", timeout_s=None)(lambda completions, **columns: [1.0] * len(completions))
    run = rlalign.train("reverse", "gru", "grpo", rewards=[one], output=tmp_path / "run", **SMALL)
    assert run.metrics["rollout/signal"] == [0.0] * 3
    assert run.metrics["train/grad_norm"] == [0.0] * 3


def test_on_the_command_line_it_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def bad(completions, **columns):\n    return [1.0]\n")
    words = ["--env", "reverse", "--policy", "gru", "--reward", "bad.py:bad", "--steps", "2", "--output", "run"]
    assert cli.main(["train", *words]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert "reward 'bad'" in err[0]

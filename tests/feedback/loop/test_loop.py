"""Loops: what a round leaves, people who vote between two calls, and kills at every point."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

import rlalign
from rlalign.cli import main
from rlalign.feedback.loop import rounds
from rlalign.feedback.loop.plan import Plan, read_plan
from rlalign.feedback.loop.rounds import Waiting
from rlalign.feedback.loop.run import run_loop
from rlalign.feedback.loop.state import STEPS, load_state
from rlalign.feedback.people import invite
from rlalign.feedback.simulate import Taste, simulate
from rlalign.feedback.store import Store
from rlalign.feedback.web.serve import in_background
from rlalign.reward_models.data import read_pairs

TEXT = """name = "b"
prompts = "prompts.jsonl"
votes_per_item = 1

[loop]
policy = "tiny"
env = "reverse"
rounds = {rounds}
prompts = 6
voters = "{voters}"
people = 2
reward = "token_fraction.py:letter_b"
noise = 0.05
steps = 2

[loop.train]
"model.hidden_size" = 32
"evaluation.prompts" = 4
"rollout.prompts" = 4
"rollout.group_size" = 4

[loop.reward_model]
model = "linear"
"""
REWARD = """
def letter_b(completions, **columns):
    return [5.0 * text.count("b") / max(len(text), 1) for text in completions]
"""


@pytest.fixture
def make_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Return a function that writes a plan."""
    monkeypatch.chdir(tmp_path)  # the reward is a file
    (tmp_path / "token_fraction.py").write_text(REWARD)
    letters = "abcd"
    texts = [f"{a}{b}{c}{a}{b}{c}{a}>" for a in letters for b in letters for c in "ab"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))

    def make(rounds: int = 2, voters: str = "simulated") -> Plan:
        (tmp_path / "study.toml").write_text(TEXT.format(rounds=rounds, voters=voters))
        return read_plan(tmp_path / "study.toml")

    return make


def test_the_reward_of_a_study_in_another_folder_is_found(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan(rounds=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["feedback", "loop", str(tmp_path / "study.toml"), "--output", str(tmp_path / "loop")]) == 0
    (result,) = load_state(tmp_path / "loop", read_plan(tmp_path / "study.toml").digest()).rounds
    assert set(result["measure"]) >= {"proxy", "gold"}
    rewards = rlalign.Run(tmp_path / "loop" / "round-1" / "run", trust=True).config.rewards
    assert rewards[1] == f"{tmp_path / 'token_fraction.py'}:letter_b=0"


def check_loop(plan: Plan, output: Path) -> None:
    """Fail unless the loop is complete and each round follows from the one before."""
    state = load_state(output, plan.digest())
    assert state.next(plan.loop.rounds) is None
    pairs = 0
    for number in range(1, plan.loop.rounds + 1):
        folder, results = output / f"round-{number}", state.rounds[number - 1]
        assert {path.name for path in folder.iterdir()} - {"study.db.lock"} == {"study.db", "reward_model", "run"}
        pairs += len(read_pairs(folder / "study.db").rows)
        assert results["reward_model"]["pairs"] + results["reward_model"]["held_out"] == pairs
        assert results["vote"]["votes"] > 0
        run = rlalign.Run(folder / "run")
        assert run.metrics["step"] == [1, 2]
        assert run.config.learner.lr == 3e-3  # that of a policy from scratch, in all rounds
        before = "tiny" if number == 1 else str(output / f"round-{number - 1}" / "run" / "policy")
        assert run.config.policy == before
        assert set(results["measure"]) == {"prompts", "proxy", "gold", "kl"}
        assert results["measure"]["proxy"]["after"] != results["measure"]["gold"]["after"]
    prompts = [_prompts(output / f"round-{n}" / "study.db") for n in range(1, plan.loop.rounds + 1)]
    assert all(len(part) == plan.loop.prompts for part in prompts)
    assert len(set().union(*prompts)) == plan.loop.rounds * plan.loop.prompts  # no prompt twice


def _prompts(location: Path) -> set[str]:
    import sqlalchemy as sa

    from rlalign.feedback.tables import prompt

    with Store(location) as store:
        return set(store.read(lambda c: list(c.execute(sa.select(prompt.c.messages_json)).scalars())))


def in_child(function: Callable[[], Any]) -> int:
    """Run a function in a forked process and return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_after(plan: Plan, output: Path, number: int, step: str) -> int:
    """Run a loop in a process that dies after a step's output, before it is recorded; return the exit code."""

    def on_step(at: int, name: str, result: dict[str, Any]) -> None:
        if (at, name) == (number, step):
            os._exit(9)

    return in_child(lambda: run_loop(plan, output, on_step=on_step))


def test_a_loop_runs_its_rounds_and_more_of_them_continue_it(make_plan, tmp_path, capsys) -> None:
    make_plan(rounds=1)
    assert main(["feedback", "loop", "study.toml"]) == 0
    assert "round 1  measure" in capsys.readouterr().out
    first = (tmp_path / "loop" / "round-1" / "study.db").stat().st_mtime_ns
    plan = make_plan(rounds=2)
    assert main(["feedback", "loop", "study.toml"]) == 0
    text = capsys.readouterr().out
    assert "round 1" not in text
    assert "2 rounds are done; the policy is loop/round-2/run/policy" in text
    assert (tmp_path / "loop" / "round-1" / "study.db").stat().st_mtime_ns == first
    check_loop(plan, tmp_path / "loop")


@pytest.mark.parametrize("step", ["vote", "train"])
def test_a_kill_after_a_step_repeats_nothing_that_is_there(make_plan, tmp_path, step) -> None:
    plan = make_plan(rounds=1)
    assert killed_after(plan, tmp_path / "out", 1, step) == 9
    assert step not in load_state(tmp_path / "out", plan.digest()).rounds[0]
    made = {"vote": "study.db", "train": "run/metrics.jsonl"}[step]
    before = (tmp_path / "out" / "round-1" / made).read_bytes()
    run_loop(plan, tmp_path / "out")
    assert (tmp_path / "out" / "round-1" / made).read_bytes() == before
    check_loop(plan, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_between_any_two_steps(make_plan, tmp_path, number, step) -> None:
    plan = make_plan()
    assert killed_after(plan, tmp_path / "out", number, step) == 9
    run_loop(plan, tmp_path / "out")
    check_loop(plan, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    ["rlalign.feedback.sampling.sample_from", "rlalign.feedback.simulate.simulate", "shutil.copy2",
     "rlalign.reward_models.train.write_prompts", "rlalign.policies.measured_save.save_measured", "os.replace"],
)  # fmt: skip
def test_a_kill_inside_a_step(make_plan, tmp_path, function) -> None:
    """The process dies in the second call of a function that a step calls: half of an output is there."""
    plan = make_plan(rounds=2)

    def run() -> None:
        calls = []
        with pytest.MonkeyPatch.context() as patch:
            real = _resolved(function)

            def dies(*args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                result = real(*args, **kwargs)
                if len(calls) == 2:
                    os._exit(9)
                return result

            for target in _users(function):
                patch.setattr(target, dies)
            run_loop(plan, tmp_path / "out")

    assert in_child(run) == 9
    run_loop(plan, tmp_path / "out")
    check_loop(plan, tmp_path / "out")


def _resolved(name: str) -> Any:
    import importlib

    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _users(name: str) -> list[str]:
    """Return the places in which a function is looked up."""
    if name.endswith("save_measured"):
        return ["rlalign.training.experiment.save_measured"]
    return [name]


def test_people_vote_between_two_calls(make_plan, tmp_path, capsys) -> None:
    plan = make_plan(rounds=1, voters="people")
    assert main(["feedback", "loop", "study.toml"]) == 3
    text = " ".join(capsys.readouterr().out.split())
    assert "round 1: 0 of" in text
    assert "rlalign feedback serve loop/round-1/study.db" in text
    with pytest.raises(Waiting):
        run_loop(plan, tmp_path / "loop")
    with Store(tmp_path / "loop" / "round-1" / "study.db") as store, in_background(store) as address:
        link = store.write(lambda c: invite(c, 1, 1)).result()[0]
        taste = Taste(temperature=0.01, ties=0.0, skips=0.0)
        simulate(address, [link.path], [taste], lambda text: 9.0 * text.count("b"), most=3)
        with pytest.raises(Waiting, match="round 1: 3 of"):
            run_loop(plan, tmp_path / "loop")
        link = store.write(lambda c: invite(c, 1, 1)).result()[0]
        simulate(address, [link.path], [taste], lambda text: 9.0 * text.count("b"))
    state = run_loop(plan, tmp_path / "loop")
    assert state.rounds[0]["vote"]["votes"] == state.rounds[0]["vote"]["needed"]
    assert state.rounds[0]["measure"]["proxy"]["after"] is not None
    assert "gold" not in state.rounds[0]["measure"]


def test_enough_ends_the_present_vote_only(make_plan, tmp_path, monkeypatch) -> None:
    plan = make_plan(rounds=2, voters="people")
    monkeypatch.setitem(rounds.STEPS, "reward_model", lambda this: {})
    monkeypatch.setitem(rounds.STEPS, "train", lambda this: {})
    monkeypatch.setitem(rounds.STEPS, "measure", lambda this: {})
    monkeypatch.setattr(rounds.Round, "policy", property(lambda self: "tiny"))
    with pytest.raises(Waiting, match="round 2: 0 of"):
        run_loop(plan, tmp_path / "out", enough=True)
    assert load_state(tmp_path / "out", plan.digest()).rounds[0]["vote"]["votes"] == 0

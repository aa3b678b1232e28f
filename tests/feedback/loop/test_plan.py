"""The plan and the state of a loop: what is refused, and which step comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra feedback")

from rlalign.errors import UserError
from rlalign.feedback.loop.plan import read_plan
from rlalign.feedback.loop.state import STEPS, LoopState, load_state
from rlalign.feedback.study import read_study

STUDY = 'name = "b"\nprompts = "prompts.jsonl"\n'
LOOP = '[loop]\npolicy = "tiny"\nrounds = 2\nprompts = 3\n'


def write(folder: Path, text: str, prompts: int = 8) -> Path:
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(prompts)))
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def test_a_plan_has_the_settings_of_study_and_loop(tmp_path) -> None:
    plan = read_plan(write(tmp_path, STUDY + LOOP + '[loop.train]\n"learner.lr" = 1e-2\nlearner.warmup = 3\n'))
    assert plan.loop.train == {"learner.lr": 1e-2, "learner.warmup": 3}
    assert (plan.loop.rounds, plan.study.name, plan.gold) == (2, "b", "")
    assert plan.path("prompts.jsonl") == str(tmp_path / "prompts.jsonl")
    assert plan.path("tiny") == "tiny"


def test_paths_and_rewards_are_relative_to_the_study(tmp_path, monkeypatch) -> None:
    here, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    for folder in (here / "rm", here / "length", elsewhere):
        folder.mkdir(parents=True)
    (here / "letters.py").write_text("")
    (here / "prompts.jsonl").touch()
    loop = LOOP + 'voters = "simulated"\nreward = "letters.py:share_of_b?x=1"\ngold = "./rm?how=min"\n'
    plan = read_plan(write(here, STUDY + loop))
    assert plan.reward == f"{here / 'letters.py'}:share_of_b?x=1"
    assert plan.gold == f"{here / 'rm'}?how=min"
    assert plan.path("prompts.jsonl?train=a") == f"{here / 'prompts.jsonl'}?train=a"
    for name in ("length", "vader", "length?target=5", "other.py:f", "json:dumps"):
        assert plan.spec(name) == name  # a registered name is never a folder, and a missing file stays as it is
    monkeypatch.chdir(here)
    assert read_plan(Path("study.toml")).gold == f"{here / 'rm'}?how=min"  # an absolute path: a folder needs a /


def test_the_other_commands_read_the_study_without_the_loop(tmp_path) -> None:
    path = write(tmp_path, 'policies = ["runs/a"]\n' + STUDY + LOOP)
    assert read_study(path).policies == ("runs/a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STUDY.replace('prompts = "prompts.jsonl"\n', "") + LOOP, "'prompts': expected a data file for all rounds"),
        (STUDY, r"expected a table \[loop\] with the policy, got none"),
        (STUDY + "[loop]\nrounds = 2\n", "'loop.policy': expected the initial policy, got none"),
        (STUDY + LOOP + "promts = 3\n", "unknown setting 'loop.promts'. Did you mean 'prompts'"),
        (STUDY + LOOP + 'voters = "cats"\n', "loop.voters"),
        (STUDY + LOOP + 'voters = "simulated"\n', "'loop.reward': expected the score by which simulated people judge"),
        (STUDY + LOOP + "steps = 0\n", "loop.steps"),
        (STUDY + LOOP + "noise = 0.0\n", "loop.noise"),
        (STUDY + LOOP + "[loop.train]\nsteps = 3\n", "'loop.train.steps'.*use loop.steps"),
        (STUDY + LOOP + "[loop.reward_model]\nmodle = 'x'\n", "loop.reward_model.modle'. Did you mean 'model'"),
        (STUDY + LOOP + "[loop.reward_model]\nepochs = 0\n", "epochs"),
        (STUDY + LOOP.replace("rounds = 2", "rounds = 5"), "expected 15 prompts for 5 rounds of 3, got 8"),
        ('kind = "ranking"\n' + STUDY + LOOP, "'kind': expected pair in a loop, got ranking"),
        ('policies = ["a"]\n' + STUDY + LOOP, "'policies': expected none in a loop"),
        ("name = \n", "no TOML file"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_run_is_refused(tmp_path, text, message) -> None:
    with pytest.raises(UserError, match=message):
        read_plan(write(tmp_path, text))


def test_more_rounds_are_the_same_plan_and_other_settings_or_prompts_another(tmp_path) -> None:
    digest = read_plan(write(tmp_path, STUDY + LOOP)).digest()
    assert read_plan(write(tmp_path, STUDY + LOOP.replace("rounds = 2", "rounds = 1"))).digest() == digest
    assert read_plan(write(tmp_path, STUDY + LOOP + "steps = 9\n")).digest() != digest
    assert read_plan(write(tmp_path, STUDY + LOOP, prompts=9)).digest() != digest


def test_the_state_names_the_next_step_and_refuses_another_plan(tmp_path) -> None:
    state = load_state(tmp_path, "a")
    done = []
    while (following := state.next(2)) is not None:
        done.append(following)
        state.record(*following, {"n": len(done)})
        state.save(tmp_path)
        assert load_state(tmp_path, "a") == state
    assert done == [(number, step) for number in (1, 2) for step in STEPS]
    assert state.next(3) == (3, "sample")
    with pytest.raises(UserError, match="holds a loop with other settings or prompts"):
        load_state(tmp_path, "b")
    (tmp_path / "loop.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match="expected a state of format 1"):
        load_state(tmp_path, "a")
    assert LoopState("a").next(1) == (1, "sample")

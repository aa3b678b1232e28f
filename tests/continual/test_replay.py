"""Replay of a former environment: exact shares, rewards of each environment, evaluations on the new one alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.schema import ContinualConfig
from rlalign.config.serialize import unsafe, update
from rlalign.continual.check import check_continual
from rlalign.continual.former_environment import former_mdp
from rlalign.continual.former_shares import steps_done, with_former_shares
from rlalign.continual.replay import replay_share, with_replay
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.stream import task_stream
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.run import Run
from rlalign.training.experiment import train_run
from tests.continual.test_continued_runs import config

STEPS, PROMPTS = 40, 7


def counts(env: str, former: str, schedule: str, share: float = 0.3) -> list[dict[str, int]]:
    """Return environment -> number of prompts up to each step of a run with replay."""
    settings = update(
        default_config(env, "gru"),
        {"continual.replay": share, "continual.replay_schedule": schedule, "steps": STEPS, "rollout.prompts": PROMPTS},
    )
    former_settings = update(default_config(former, "gru"), {"steps": 10})
    at_its_shares = with_former_shares(make_mdp(former), former_settings, former_settings.steps)
    mixture = with_replay(settings, make_mdp(env), former_settings, at_its_shares)
    stream = task_stream(mixture)
    total = dict.fromkeys(mixture.parts, 0)
    found = []
    for step in range(STEPS):
        for task in stream.next(PROMPTS, step):
            total[task.env] += 1
        found.append(dict(total))
    return found


def test_a_constant_share_is_exact_at_every_step() -> None:
    for step, found in enumerate(counts("reverse", "sort", "constant"), 1):
        assert abs(found["sort"] - 0.3 * PROMPTS * step) < 1


def test_a_linear_share_falls_to_0_and_its_sum_is_exact() -> None:
    found = counts("reverse", "sort", "linear")
    for step in range(STEPS):
        share = sum(0.3 * (1 - k / (STEPS - 1)) * PROMPTS for k in range(step + 1))
        assert abs(found[step]["sort"] - share) < 1
    assert found[-1]["sort"] == found[-2]["sort"]  # none in the last step


def test_environments_of_mixtures_divide_their_shares() -> None:
    found = counts("reverse=0.75,copy=0.25", "sort@0,copy@6", "constant", share=0.4)[-1]
    total = STEPS * PROMPTS
    # the former run of 10 steps had copy, whose name the new mixture has too, in the last 4
    assert set(found) == {"reverse", "copy", "sort", "copy-former"}
    for name, share in (("reverse", 0.45), ("copy", 0.15), ("sort", 0.24), ("copy-former", 0.16)):
        assert abs(found[name] - share * total) < 1


def test_former_shares_are_those_of_the_steps_that_were_done(tmp_path: Path) -> None:
    settings = config(tmp_path / "a", "sort@0,copy@6", steps=10)
    (tmp_path / "a").mkdir()
    assert steps_done(tmp_path / "a", settings) == 10
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 1}\n' * 8)  # it ended early
    assert steps_done(tmp_path / "a", settings) == 8
    former = with_former_shares(make_mdp("sort@0,copy@6"), settings, 8)
    assert isinstance(former, Mixture)
    assert former.weights.at(0) == former.weights.at(99) == {"sort": 0.75, "copy": 0.25}


def test_former_shares_have_the_temperature_of_the_former_run() -> None:
    settings = update(default_config("sort=0.9,copy=0.1", "gru"), {"tasks.temperature": 2.0})
    former = with_former_shares(make_mdp("sort=0.9,copy=0.1"), settings, 5)
    assert isinstance(former, Mixture)
    assert former.weights.at(0) == pytest.approx({"sort": 0.75, "copy": 0.25})


def test_the_former_environment_has_the_shares_of_its_run(tmp_path: Path) -> None:
    run = train_run(config(tmp_path / "a", "sort@0,copy@1", steps=2), quiet=True)
    mdp = former_mdp(run.folder, run.config, run.policy, PlainConsole(quiet=True), trust=False)
    assert isinstance(mdp, Mixture)
    assert mdp.weights.at(0) == {"sort": 0.5, "copy": 0.5}


@pytest.mark.parametrize("setting", [{"continual__replay": 0.2}, {"continual__ewc": 1.0}])
def test_shares_that_followed_success_are_refused(tmp_path: Path, setting: dict[str, float]) -> None:
    train_run(config(tmp_path / "a", "sort,copy", tasks__mixing="difficulty", steps=1), quiet=True)
    with pytest.raises(UserError, match=r"had no weights, but tasks\.mixing difficulty"):
        check_continual(config(tmp_path / "b", "reverse", tmp_path / "a", **setting))


def test_the_share_ends_with_the_run() -> None:
    linear = ContinualConfig(replay=0.5, replay_schedule="linear")
    assert replay_share(linear, 1, 0) == 0.5
    assert replay_share(linear, 3, 7) == 0.0
    assert replay_share(ContinualConfig(replay=0.5), 3, 2) == 0.5


def test_a_longer_linear_replay_is_another_experiment() -> None:
    base = default_config("reverse", "gru")
    linear = update(base, {"continual.replay": 0.2, "continual.replay_schedule": "linear"})
    assert unsafe("steps", linear)
    assert not unsafe("steps", update(base, {"continual.replay": 0.2}))


def test_each_environment_keeps_its_rewards_and_evaluations_are_on_the_new_one(tmp_path: Path) -> None:
    former = config(tmp_path / "a", "sort", rewards=["exact_match=3"], steps=1)
    train_run(former, quiet=True)
    settings = config(tmp_path / "b", "reverse", tmp_path / "a", continual__replay=0.5, steps=2)
    run = train_run(settings, quiet=True)
    metrics = run.metrics
    assert metrics["env/sort/share"] == metrics["env/reverse/share"] == [0.5, 0.5]
    assert "env/sort/reward/token_match" not in metrics
    assert "env/reverse/reward/token_match" in metrics
    assert run.comparison is not None
    assert set(run.comparison.after.metrics) >= {"token_match", "exact_match"}
    again = Run(tmp_path / "b").evaluate(split="validation")
    assert again.after.mean("reward") == pytest.approx(run.comparison.after.mean("reward"))

"""The numbers by hand; the alarms on made-up histories and on recorded runs: each pattern its own, a sound run none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.log.diagnostics import (
    ALARMS,
    History,
    _collapsed,
    alarms,
    common_word,
    duplicates,
    empty,
    gold_of,
    last_turns,
    right_answers,
    rollout_diagnostics,
    within_groups,
    zero_variance,
)
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.rollout.collect import collect
from rlalign.types import Sampling


def test_zero_variance_counts_groups_that_could_have_differed():
    rewards = np.array([1, 1, 1, 2, 3, math.nan, math.nan, math.nan])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert zero_variance(rewards, groups) == 0.5  # groups 2 and 3 have fewer than two valid samples
    assert math.isnan(zero_variance(np.array([1.0, 2.0]), np.array([0, 1])))


def test_length_correlation_leaves_the_prompt_out():
    # between the groups long goes with good, within them with bad
    x, y, groups = np.array([1.0, 0, 11, 10]), np.array([1.0, 2, 11, 12]), np.array([0, 0, 1, 1])
    assert within_groups(x, y, groups) == pytest.approx(-1.0)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    assert within_groups(a, b, np.zeros(50, int)) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert math.isnan(within_groups(np.ones(4), b[:4], np.zeros(4, int)))
    assert math.isnan(within_groups(np.array([]), np.array([]), np.array([])))


def test_shares_of_completions():
    assert duplicates(["p", "p", "q", "r"], ["a", "a", "a", "b"]) == 0.75
    assert duplicates(["p", "p"], ["a", "a"]) == 0.0  # the same answer to the same prompt
    assert common_word(["A b b", "b", "c", "a c"]) == 0.5
    assert common_word(["", "!"]) == 0.0
    assert common_word(["1", "1", "1", "0"], ["1", "0"]) == 0.25  # half of the right answers are 1
    assert common_word(["the a", "the b"], ["the c", "the d"]) == 0.5
    assert empty(["", " \n", "<answer></answer>", "```json\n```", "<b>x</b>", "好"]) == pytest.approx(4 / 6)


def test_the_last_turns_are_what_ended_the_episodes():
    mdp = make_mdp("recommend")
    policy = make_policy("gru", tokenizer=mdp.tokenizer, seed=0)
    env, tasks = TokenVectorEnv(mdp, 12), [mdp.source.get("train", i) for i in range(6)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rollout = collect(
            env, make_sampler("decode", policy), tasks, group_size=2, sampling=Sampling(), generator=generator, seed=0
        )
    assert {len(e.texts) for e in env.episodes} == {3}
    assert last_turns(rollout, mdp) == [e.texts[-1] for e in env.episodes]
    assert right_answers(rollout, mdp) == [task.columns["answer"] for task in tasks]
    assert rollout_diagnostics(rollout, mdp)["rollout/common_word"] < 1


def test_gold_is_a_named_metric():
    class Mdp:
        gold = "wanted"

    assert gold_of(object(), {"gold": 0.0, "proxy": 1.0}) == "gold"
    assert gold_of(object(), {"gold": 1.0}) is None
    assert gold_of(Mdp(), {"wanted": 0.0, "gold": 0.0}) == "wanted"
    assert gold_of(Mdp(), {"gold": 0.0}) is None


SOUND = {
    "reward/mean": (0.1, 0.9),
    "reward/std": (0.3, 0.1),
    "rollout/length": (10, 8),
    "rollout/truncated": (0.5, 0.0),
    "rollout/length_correlation": (-0.2, 0.1),
    "rollout/common_word": (0.3, 0.5),
    "rollout/empty": (0.1, 0.0),
    "rollout/entropy": (2.0, 0.05),
    "rollout/zero_variance": (0.1, 0.9),
    "rollout/best": (1.0, 1.0),
    "rollout/kl": (0.0, 8.0),
    "rollout/gold": (0.1, 0.8),
    "rollout/gold_std": (0.3, 0.1),
}
# what has to change in a sound run to make it a hacked one
HACKED = {
    "length": {"rollout/truncated": (0.5, 1.0), "rollout/length_correlation": (0.6, 0.4)},
    "phrase": {"rollout/common_word": (0.5, 0.95)},
    "empty": {"rollout/empty": (0.1, 0.9)},
    "gold": {"rollout/gold": (0.1, 0.1)},
    "kl": {"rollout/kl": (0.0, 40.0)},
    "entropy": {"reward/mean": (0.1, 0.3)},
}


def history(ends, steps=40):
    """From the first value to the second over three quarters of the run, then level."""
    way = [min(1.0, i / (0.75 * steps)) for i in range(steps)]
    return [{k: a + (b - a) * x for k, (a, b) in ends.items()} for x in way]


def raised(rows):
    return {name for name, there in alarms(rows).items() if there}


def test_a_sound_run_raises_nothing():
    assert raised(history(SOUND)) == set()


@pytest.mark.parametrize("name", HACKED)
def test_each_hack_raises_its_own_alarm(name):
    assert raised(history(SOUND | HACKED[name])) == {name}


@pytest.mark.parametrize("name", ["length", "phrase", "empty"])
def test_a_pattern_that_does_not_pay_is_no_hack(name):
    assert name not in raised(history(SOUND | HACKED[name] | {"reward/mean": (0.1, 0.1)}))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("length", "rollout/truncated"),
        ("length", "rollout/length_correlation"),
        ("phrase", "rollout/common_word"),
        ("empty", "rollout/empty"),
        ("gold", "rollout/gold"),
        ("kl", "rollout/kl"),
        ("entropy", "rollout/entropy"),
        ("entropy", "rollout/zero_variance"),
    ],
)
def test_nothing_is_said_without_the_numbers(name, column):
    rows = [{k: None if k == column else v for k, v in row.items()} for row in history(SOUND | HACKED[name])]
    assert name not in raised(rows)


def test_a_run_without_gold_has_no_gap():
    rows = [{k: v for k, v in row.items() if "gold" not in k} for row in history(SOUND)]
    assert raised(rows) == set()


def test_gold_that_rose_and_fell_again_raises_the_alarm():
    rows = history(SOUND | {"rollout/gold": (0.1, 0.9)})
    for i, row in enumerate(rows):
        row["rollout/gold"] = 0.9 - 0.8 * (1 - i / 20) if i < 20 else 0.9 - 0.3 * (i - 20) / 20  # 0.1, 0.9, 0.6
    assert raised(rows) == {"gold"}
    assert raised(rows[:21]) == set()


def test_a_word_that_was_common_from_the_start_is_no_collapse():
    assert raised(history(SOUND | {"rollout/common_word": (0.85, 0.95)})) == set()


def test_nothing_is_said_of_the_first_steps():
    rows = history(SOUND | HACKED["kl"], steps=12)
    assert raised(rows[:9]) == set()
    assert raised(rows) == {"kl"}
    assert set(alarms(rows)) == set(ALARMS)
    bare = [{k: v for k, v in row.items() if k not in ("rollout/kl", "rollout/gold")} for row in rows]
    assert set(alarms(bare)) == set(ALARMS) - {"kl", "gold"}  # of which nothing is known


def test_history_windows():
    h = History([{"x": float(i)} for i in range(20)])
    assert h.width == 4
    assert (h.start("x"), h.now("x"), h.rise("x"), h.peak("x")) == (1.5, 17.5, 16.0, 17.5)
    assert History([{}] * 500).width == 10


def test_the_distance_from_the_start_counts_by_the_token():
    assert raised(history(SOUND | {"rollout/kl": (0.0, 40.0), "rollout/length": (10, 30)})) == set()


# ---- recorded runs ----

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "alarms.json").read_text())


def recorded(name):
    """The rows of a run of benchmarks/environments.py, with the columns that its alarms read."""
    columns = RECORDED[name]["columns"]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def when(name, alarm):
    """The steps after which an alarm is there."""
    rows = recorded(name)
    return [step for step in range(1, len(rows) + 1) if alarms(rows[:step])[alarm]]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("math", set()),
        ("reasoning", {"entropy"}),
        ("overlong", {"length"}),
        ("detoxify", {"phrase"}),
        ("hackme", {"gold", "phrase"}),
    ],
)
def test_recorded_runs_raise_what_is_right_at_their_end(name, wanted):
    assert raised(recorded(name)) == wanted


def test_to_be_certain_for_a_while_is_not_to_be_stuck():
    rows = recorded("math")
    collapsed = [step for step in range(10, len(rows) + 1) if _collapsed(History(rows[:step]))]
    assert collapsed == list(range(107, 123))  # looked at by itself, the state is there for sixteen steps
    assert when("math", "entropy") == []
    assert when("reasoning", "entropy") == list(range(77, 151))  # in the state since step 62: for a fifth of 77


def test_a_reward_for_length_is_told_by_what_it_paid_before_the_limit():
    """Later hardly a length differs, and what the few say would end the alarm of the trap or begin one without any."""
    assert when("overlong", "length") == list(range(when("overlong", "length")[0], 301))
    assert when("detoxify", "length") == []
    assert History(recorded("detoxify")).mean("rollout/length_correlation") > 0.25

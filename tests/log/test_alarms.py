"""Alarms on constructed histories and on recorded runs: each hack raises its own alarm, a run without a hack none."""

import json
from pathlib import Path

import pytest

from rlalign.log.alarms import ALARMS, _collapsed, alarms
from rlalign.log.history import History

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
# metrics that each hack changes from those of a run without a hack
HACKED = {
    "length": {"rollout/truncated": (0.5, 1.0), "rollout/length_correlation": (0.6, 0.4)},
    "phrase": {"rollout/common_word": (0.5, 0.95)},
    "empty": {"rollout/empty": (0.1, 0.9)},
    "gold": {"rollout/gold": (0.1, 0.1)},
    "kl": {"rollout/kl": (0.0, 40.0)},
    "entropy": {"reward/mean": (0.1, 0.3)},
}


def history(ends, steps=40):
    """Return rows that change linearly from first to second value over three quarters of the run, then stay."""
    progress = [min(1.0, i / (0.75 * steps)) for i in range(steps)]
    return [{k: a + (b - a) * x for k, (a, b) in ends.items()} for x in progress]


def raised(rows):
    """Return the names of the active alarms."""
    return {name for name, active in alarms(rows).items() if active}


def test_a_run_without_a_hack_raises_no_alarm():
    assert raised(history(SOUND)) == set()


@pytest.mark.parametrize("name", HACKED)
def test_each_hack_raises_its_own_alarm(name):
    assert raised(history(SOUND | HACKED[name])) == {name}


@pytest.mark.parametrize("name", ["length", "phrase", "empty"])
def test_a_pattern_without_a_higher_reward_raises_no_alarm(name):
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
def test_a_missing_metric_raises_no_alarm(name, column):
    rows = [{k: None if k == column else v for k, v in row.items()} for row in history(SOUND | HACKED[name])]
    assert name not in raised(rows)


def test_a_run_without_gold_raises_no_alarm():
    rows = [{k: v for k, v in row.items() if "gold" not in k} for row in history(SOUND)]
    assert raised(rows) == set()


def test_gold_that_rises_and_falls_raises_the_alarm():
    rows = history(SOUND | {"rollout/gold": (0.1, 0.9)})
    for i, row in enumerate(rows):
        row["rollout/gold"] = 0.9 - 0.8 * (1 - i / 20) if i < 20 else 0.9 - 0.3 * (i - 20) / 20  # 0.1, 0.9, 0.6
    assert raised(rows) == {"gold"}
    assert raised(rows[:21]) == set()


def test_a_word_that_is_common_in_the_first_steps_raises_no_alarm():
    assert raised(history(SOUND | {"rollout/common_word": (0.85, 0.95)})) == set()


def test_the_first_ten_steps_raise_no_alarm():
    rows = history(SOUND | HACKED["kl"], steps=12)
    assert raised(rows[:9]) == set()
    assert raised(rows) == {"kl"}
    assert set(alarms(rows)) == set(ALARMS)
    bare = [{k: v for k, v in row.items() if k not in ("rollout/kl", "rollout/gold")} for row in rows]
    assert set(alarms(bare)) == set(ALARMS) - {"kl", "gold"}  # their metrics were never measured


def test_history_windows():
    h = History([{"x": float(i)} for i in range(20)])
    assert h.width == 4
    assert (h.start("x"), h.now("x"), h.rise("x"), h.peak("x")) == (1.5, 17.5, 16.0, 17.5)
    assert History([{}] * 500).width == 10


def test_the_kl_alarm_counts_nats_per_token():
    assert raised(history(SOUND | {"rollout/kl": (0.0, 40.0), "rollout/length": (10, 30)})) == set()


# ---- recorded runs ----

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "alarms.json").read_text())


def recorded(name):
    """Return the rows of a run of benchmarks/environments.py, with the columns that the alarms read."""
    columns = RECORDED[name]["columns"]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def active_steps(name, alarm):
    """Return the steps after which an alarm is active."""
    rows = recorded(name)
    return [step for step in range(1, len(rows) + 1) if alarms(rows[:step])[alarm]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("math", set()),
        ("reasoning", {"entropy"}),
        ("overlong", {"length"}),
        ("detoxify", {"phrase"}),
        ("hackme", {"gold", "phrase"}),
    ],
)
def test_recorded_runs_raise_the_expected_alarms_at_their_end(name, expected):
    assert raised(recorded(name)) == expected


def test_a_temporary_entropy_collapse_raises_no_alarm():
    rows = recorded("math")
    collapsed = [step for step in range(10, len(rows) + 1) if _collapsed(History(rows[:step]))]
    assert collapsed == list(range(107, 123))  # the collapse lasts sixteen steps
    assert active_steps("math", "entropy") == []
    assert active_steps("reasoning", "entropy") == list(
        range(77, 151)
    )  # collapsed since step 62, that is for a fifth of 77 steps


def test_the_length_alarm_reads_the_correlation_before_the_limit():
    """At the limit few lengths differ; their correlation would end a true alarm or raise a false one."""
    assert active_steps("overlong", "length") == list(range(active_steps("overlong", "length")[0], 301))
    assert active_steps("detoxify", "length") == []
    assert History(recorded("detoxify")).mean("rollout/length_correlation") > 0.25

"""The table of metric keys describes every key that runs log, and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlalign
from rlalign.envs.registration import make_mdp
from rlalign.evaluation.evaluate import RESERVED
from rlalign.evaluation.text_metrics import FAMILIES, attempts, report
from rlalign.log.alarms import ALARMS
from rlalign.log.metric_keys import EVALUATION, METRICS, rows_of
from rlalign.policies.factory import make_policy
from rlalign.storage.jsonl import read_metrics


@rlalign.reward("mean", timeout_s=None)
def mean(completions, log_metric, **columns):
    """Return the length of each text; the name is that of a statistic."""
    log_metric("longest", max(map(len, completions)))
    return [float(len(text)) for text in completions]


@rlalign.reward("flaky", timeout_s=None, retries=0, on_error="drop")
def flaky(completions, **columns):
    """Raise."""
    raise ValueError("no server")


@rlalign.reward("patchy", timeout_s=None)
def patchy(completions, **columns):
    """Return a huge value, NaN and None."""
    return [1e9, math.nan, *([None] * (len(completions) - 2))]


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"on_bad_record": "drop"},
    "evaluated": {
        "algorithm": "grpo",
        "objective__kl__where": "loss",
        "objective__kl__target": 1.0,
        "objective__regularizer__entropy_coef": 0.01,
        "objective__off_policy__kind": "tis",
        "supervised__align_interval": 1,
        "evaluation__every": 1,
        "evaluation__stop_kl": 1e6,
        "learner__minibatches": 2,
    },
    "continued": {
        "env": "sort",
        "policy": "plain",
        "continual__anchor": "both",
        "continual__ewc": 1.0,
        "continual__ewc_samples": 2,
        "objective__kl__where": "reward",
        "objective__kl__coef": 0.1,
    },
    "AdaLoRA": {"policy": "tiny", "model__adapter__kind": "adalora", "steps": 1},
    "value head": {"algorithm": "ppo"},
    "value model": {"algorithm": "ppo", "objective__value__kind": "model", "objective__value__pretrain_steps": 1},
    "likelihood": {
        "algorithm": "vapo",
        "objective__regularizer__nll_above": -9.0,
        "objective__value__pretrain_steps": 0,
    },
    "dynamic sampling": {"algorithm": "dapo"},
    "weights": {"rewards": ["exact_match=0@0:1@2", "length<=0.1", mean]},
    "failures": {"rewards": ["exact_match", "slow.py:slow=0", (flaky, 0.0), (patchy, 0.0)], "steps": 1},
    "true objective": {"env": "HackMe"},
    "best of n": {"algorithm": "best_of_n", "evaluation__best_of": 2},
    "several turns": {"env": "GuessNumber"},
    "several environments": {"env": "sort,reverse", "tasks__mixing": "difficulty", "evaluation__every": 1},
    "stages of environments": {"env": "sort@0,reverse@1"},
    "TRL's GRPO": {"algorithm": "trl:grpo", "policy": "tiny", "objective__kl__where": "loss"},
    "TRL's RLOO": {"algorithm": "trl:rloo", "policy": "tiny", "evaluation__every": 2},
    "distillation": {"algorithm": "distill", "teacher": "teacher"},
    "imitation of a teacher": {"algorithm": "seq_kd", "teacher": "teacher"},
    "TRL's DPO": {"algorithm": "trl:dpo", "policy": "tiny", "rollout__group_size": 2, "data": "prefs.jsonl"},
    "TRL's KTO": {"algorithm": "trl:kto", "policy": "tiny", "rollout__group_size": 1, "data": "prefs.jsonl"},
    "sft": {"algorithm": "sft", "rollout__group_size": 1, "data": "prefs.jsonl", "recorded__kind": "demonstrations"},
    "kto": {"algorithm": "kto", "rollout__group_size": 1, "data": "prefs.jsonl", "evaluation__every": 1},
    "hooks": {
        "metrics": ["hooks.py:words", "hooks.py:spread"],
        "callbacks": ["hooks.py:Ends"],
        "evaluation__every": 1,
    },
}
HOOKS = """
def words(samples):
    return [len(text.split()) for text in samples.completions]

def spread(samples):
    return {"unique": len(set(samples.completions)) / len(samples)}

class Ends:
    def should_stop(self):
        return False
"""
PREFERENCES = """
{"prompt": "ab>", "chosen": "ba", "rejected": "d", "split": "train"}
{"prompt": "cd>", "chosen": "dc", "rejected": "a", "split": "test"}
"""
SLOW = """
import time, rlalign

@rlalign.reward("slow", timeout_s=0.05, retries=0, on_error=0.0)
def slow(completions, **columns):
    time.sleep(60)
"""
NEVER = {
    "reward/NAME/died": "tests/faults kill a worker",
    "supervised/skipped": "tests/faults make an answer's likelihood infinite",
}
"""Rows of keys that none of these runs logs, and where a test logs them."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The folder of each run."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "slow.py").write_text(SLOW)
    (folder / "hooks.py").write_text(HOOKS)
    (folder / "prefs.jsonl").write_text(PREFERENCES)
    make_policy("gru", tokenizer=make_mdp("reverse").tokenizer, seed=1).save_pretrained(folder / "teacher")
    for name, settings in RUNS.items():
        small = {"steps": 2, "rollout__prompts": 2, "rollout__group_size": 4, "evaluation__prompts": 2}
        with warnings.catch_warnings(), contextlib.chdir(folder):  # a spec names slow.py
            warnings.simplefilter("ignore", RuntimeWarning)  # of the rewards that fail
            rlalign.train(**{"env": "reverse", "policy": "gru", **small, **settings}, output=folder / name, quiet=True)
    return {name: folder / name for name in RUNS}


def keys(folder: Path) -> set[str]:
    """Return the keys of metrics.jsonl besides the step."""
    return {key for row in read_metrics(folder) for key in row} - {"step"}


def undescribed(names, rows=None) -> set[str]:
    """Return the keys that not exactly one row describes."""
    return {name for name in names if len(rows_of(name, rows)) != 1}


@pytest.mark.parametrize("name", RUNS)
def test_exactly_one_row_describes_each_key_that_a_run_logs(runs, name):
    assert not undescribed(keys(runs[name]))


@pytest.mark.parametrize("name", RUNS)
def test_exactly_one_row_describes_each_metric_of_an_evaluation(runs, name):
    evaluation = json.loads((runs[name] / "report" / "evaluation.json").read_text())
    assert not undescribed(evaluation["metrics"], EVALUATION["metrics"])
    assert not undescribed(evaluation["corpus"]["after"]["figures"], EVALUATION["corpus"])
    validated = {key.removeprefix("eval/") for key in keys(runs[name]) if key.startswith("eval/")}
    assert not undescribed(validated, EVALUATION["metrics"])


def test_runs_log_every_row_of_the_table(runs):
    logged = {row.key for folder in runs.values() for key in keys(folder) for row in rows_of(key)}
    rows = {row.key for part in METRICS.values() for row in part}
    assert rows - logged == set(NEVER)


def test_the_corpus_rows_are_the_figures_of_the_families():
    figures = report(list(FAMILIES), ["x | y", ""], ["x | y", "z | y"], [None, None]).figures | attempts(
        np.ones((1, 2), bool), 2
    )
    described = {row.key for name in figures for row in rows_of(name, EVALUATION["corpus"])}
    own = {"metric/NAME", "metric/NAME/KEY"}  # of functions of the user's own, in the runs above
    assert described | own == {row.key for row in EVALUATION["corpus"]}


@pytest.mark.parametrize(
    "key",
    ["reward", "rollout/lenght", "train/new", "reward/vader/broken", "reward/a/b/weight", "alarm/new", "time/eval"],
)
def test_no_row_describes_an_unknown_key(key):
    assert undescribed([key])


def test_a_key_without_placeholder_has_priority():
    assert [row.key for row in rows_of("reward/mean")] == ["reward/mean"]
    assert [row.key for row in rows_of("reward/vader")] == ["reward/NAME"]
    assert [row.key for row in rows_of("reward/bleu[answer=a/b]/nan")] == ["reward/NAME/nan"]
    assert [row.key for row in rows_of("pass@8", EVALUATION["corpus"])] == ["pass@K"]


def test_the_table_names_every_alarm_and_every_reserved_metric():
    assert {row.key for row in METRICS["alarm"]} == {f"alarm/{name}" for name in ALARMS}
    assert {row.key for row in EVALUATION["metrics"]} == {
        *RESERVED, "NAME", "reward/NAME", "metric/NAME", "metric/NAME/KEY",
    }  # fmt: skip


def test_keys_belong_to_the_stage_that_they_are_listed_under():
    for stage, rows in METRICS.items():
        assert all(row.key.startswith(f"{stage}/") for row in rows)
    listed = [row.key for part in METRICS.values() for row in part]
    assert len(set(listed)) == len(listed)

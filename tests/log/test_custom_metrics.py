"""Metrics of the user's own: values of each form, failures by name, read-only samples."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.errors import UserError
from rlalign.evaluation.custom_metrics import evaluated_samples, with_custom_metrics
from rlalign.evaluation.evaluate import Evaluation
from rlalign.log.custom_metrics import CustomMetrics, load_metrics
from rlalign.objective.registries import ADVANTAGES
from rlalign.rollout.views import Samples, frozen


def samples() -> Samples:
    return Samples(
        prompts=["p", "p"],
        completions=["a b", "c"],
        messages=[[], []],
        columns=[{}, {}],
        rewards=frozen(np.array([1.0, math.nan])),
        components={},
        lengths=frozen(np.array([3, 1])),
        truncated=frozen(np.array([False, True])),
        group_ids=frozen(np.array([0, 0])),
    )


def metrics_of(**functions: Any) -> tuple[CustomMetrics, list[str]]:
    reported: list[str] = []
    return CustomMetrics(functions, reported.append), reported


def test_each_form_of_value_is_logged_under_the_name_of_its_function() -> None:
    metrics, reported = metrics_of(
        scalar=lambda s: 2,
        each=lambda s: [len(text) for text in s.completions],
        partly=lambda s: [1.0, None],
        tensor=lambda s: torch.tensor([1.0, 3.0]),
        several=lambda s: {"share": np.float32(0.5), "length": s.lengths},
        nowhere=lambda s: [None, None],
    )
    means = metrics.means(samples())
    assert math.isnan(means.pop("metric/nowhere"))
    assert means == {
        "metric/scalar": 2.0,
        "metric/each": 2.0,
        "metric/partly": 1.0,
        "metric/tensor": 2.0,
        "metric/several/share": 0.5,
        "metric/several/length": 2.0,
    }
    assert reported == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s: 1 / 0, "metric 'broken' raised ZeroDivisionError: division by zero in .*, line .*; it is left out"),
        (lambda s: [1.0], r"metric 'broken' returned shape \[1\]: expected one number, or 2, one per completion"),
        (lambda s: "high", "metric 'broken' returned 'high'"),
        (lambda s: None, "metric 'broken' returned None"),
        (lambda s: exit(1), "metric 'broken' raised SystemExit"),
        (lambda s: s.rewards.fill(0), "metric 'broken' raised ValueError: assignment destination is read-only"),
    ],
)
def test_a_failing_metric_is_reported_once_and_left_out_from_then_on(function: Any, message: str) -> None:
    calls = 0

    def counted(s: Samples) -> Any:
        nonlocal calls
        calls += 1
        return function(s)

    metrics, reported = metrics_of(broken=counted, sound=lambda s: 1)
    first, second = metrics.means(samples()), metrics.means(samples())
    assert first == second == {"metric/sound": 1.0}
    assert calls == 1
    (report,) = reported
    assert re.search(message, report)
    resumed, _ = metrics_of(broken=counted, sound=lambda s: 1)
    resumed.load_state_dict(metrics.state_dict())
    assert resumed.means(samples()) == second
    assert calls == 1


def test_metrics_are_loaded_by_spec_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own_metrics.py"
    path.write_text(
        "def words(samples): return 1\ndef judge(prompts, completions): return [1]\nx = 3\ndef none(): ...\n"
    )
    assert list(load_metrics([f"{path}:words", len])) == ["words", "len"]
    for specs, message in (
        ([f"{path}:words", f"{path}:words"], "got 'words' twice"),
        ([f"{path}:judge"], "got a reward; use --reward SPEC=0"),
        ([f"{path}:x"], "got a int"),
        ([f"{path}:none"], r"expected a function f\(samples\), got f\(\)"),
        ([f"{path}:wrds"], "Did you mean 'words'"),
        (["words"], "expected file.py:function"),
    ):
        with pytest.raises(UserError, match=message):
            load_metrics(specs)


def evaluation() -> Evaluation:
    shape = (2, 2)
    return Evaluation(
        metrics={
            "reward": np.array([[1.0, 0.0], [0.5, 0.5]]),
            "exact": np.array([[1.0, 0.0], [0.0, 0.0]]),
            "reward/length": np.ones(shape),
            "length": np.array([[1.0, 2.0], [3.0, 4.0]]),
            "kl": np.zeros(shape),
            "truncated": np.zeros(shape),
        },
        prompts=["p", "q"],
        completions=[["a", "b"], ["c", "d"]],
    )


def test_an_evaluation_has_metrics_per_completion_and_figures() -> None:
    own = with_custom_metrics(evaluation(), CustomMetrics({"order": lambda s: list(range(4)), "share": lambda s: 1.0}))
    assert own.metrics["metric/order"].tolist() == [[0, 1], [2, 3]]  # the samples of a prompt are neighbors
    assert own.report.figures["metric/share"] == 1.0


def test_the_samples_of_an_evaluation_keep_the_names_of_components() -> None:
    view = evaluated_samples(evaluation())
    assert set(view.components) == {"exact", "length"}
    assert view.prompts == ["p", "p", "q", "q"]
    assert view.completions == ["a", "b", "c", "d"]
    assert view.lengths.tolist() == [1, 2, 3, 4]
    assert view.group_ids.tolist() == [0, 0, 1, 1]


def test_only_functions_are_suggested_for_a_missing_metric_or_advantage(tmp_path: Path) -> None:
    path = tmp_path / "good_hooks.py"
    path.write_text("class Nope: ...\ndef letters(samples): return 1.0\n")
    for get in (lambda spec: load_metrics([spec]), ADVANTAGES.get):
        with pytest.raises(UserError, match=r"has no 'nope'\. Available: letters\.$"):
            get(f"{path}:nope")

"""The run of best_of_n: its folder, its estimates, and its place in a study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rlalign
from rlalign.api import check_config, train_config
from rlalign.cli import main
from rlalign.compare import Study, build_cells, compare_study
from rlalign.compare.records.run_records import finished
from rlalign.compare.results.schema import Results
from rlalign.config.defaults import default_config
from rlalign.config.serialize import update
from rlalign.config.unused_settings import unused_settings
from rlalign.config.validate import validate
from rlalign.errors import UserError
from rlalign.evaluation.best_of_n import kl_upper_bound
from rlalign.run import Run
from rlalign.storage.jsonl import read_metrics

ENV = "rlalign/Preference-v0"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of best_of_n. Tests do not change it."""
    folder = tmp_path_factory.mktemp("best") / "run"
    return rlalign.train(ENV, "gru", "best_of_n", output=folder, quiet=True, evaluation__prompts=8,
                         evaluation__best_of=4)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of best_of_n beside a trained algorithm."""
    folder = tmp_path_factory.mktemp("study") / "cmp"
    settings = {"evaluation.prompts": 8, "rollout.prompts": 2, "evaluation.every": 1}
    variant = {"best-of-4": {"preset": "best_of_n", "evaluation.best_of": 4}}
    study = Study(("rloo", "best-of-4"), (ENV,), seeds=(0, 1), steps=2, output=str(folder), settings=settings,
                  algorithm=variant)  # fmt: skip
    for cell in build_cells(study):
        train_config(cell.config, quiet=True)  # in this process; the study below finds them finished
    return compare_study(study)


def test_the_weights_stay_those_of_the_base_policy_and_the_reward_rises(run: Run) -> None:
    from rlalign.config.instantiate import build_mdp, build_policy

    base, _ = build_policy(run.config, build_mdp(run.config))
    trained = run.policy.trainable()
    assert all(bool((weights == trained[name]).all()) for name, weights in base.trainable().items())
    assert run.comparison is not None
    difference = run.comparison.differences["reward"]
    assert difference.low > 0  # the best of 4 of a policy with variance
    assert "kl" not in run.comparison.differences  # the log-ratio of the samples is 0, and the KL is not


def test_the_folder_holds_cost_bound_and_curve(run: Run) -> None:
    (row,) = read_metrics(run.folder)
    assert row["best_of_n/samples_per_answer"] == 4
    assert row["best_of_n/samples_per_prompt"] == 16
    assert row["best_of_n/kl_upper_bound"] == pytest.approx(kl_upper_bound(4))
    curve = json.loads((run.folder / "report" / "best-of-validation.json").read_text())["policies"]["initial"]["curve"]
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert curve[-1]["metrics"]["reward"]["mean"] == pytest.approx(row["eval/reward"])
    assert curve[0]["kl_upper_bound"] == 0
    assert finished(run.folder)


def test_the_before_side_is_that_of_other_algorithms_at_the_seed(run: Run, tmp_path: Path) -> None:
    other = rlalign.train(ENV, "gru", "rloo", output=tmp_path / "a", quiet=True, steps=1, evaluation__prompts=8,
                          rollout__prompts=2)  # fmt: skip
    assert run.comparison is not None
    assert other.comparison is not None
    assert np.array_equal(run.comparison.before.metrics["reward"], other.comparison.before.metrics["reward"])


def test_a_study_reports_the_cost_and_compares_at_the_budgets_of_the_others(study: Results) -> None:
    (env,) = study.environments.values()
    rloo, best = env.algorithms["rloo"], env.algorithms["best-of-4"]
    assert (rloo.samples_per_answer, best.samples_per_answer) == (1, 4)
    assert any("an answer of best-of-4 costs 4 samples" in warning for warning in study.warnings)
    assert best.mean.value is not None
    assert best.auc["samples"].value == pytest.approx(best.mean.value)  # a flat curve
    assert rloo.auc["samples"].value != pytest.approx(rloo.curves[0].reward[-1])  # over its own budget, not over 0
    assert [curve.samples for curve in best.curves] == [[0.0], [0.0]]
    assert "kl" in rloo.metrics
    assert "kl" not in best.metrics


def test_the_samples_of_the_trained_algorithms_are_still_compared(study: Results) -> None:
    assert not any("drew" in warning and "times the samples" in warning for warning in study.warnings)


def test_a_run_evaluates_best_of_n_with_another_reward_and_still_measures_its_own(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(run.folder), "--best-of", "4", "--reward", "length?target=3", "--prompts", "4"]
    assert main(arguments) == 0
    assert "KL, upper bound" in capsys.readouterr().out
    data = json.loads((run.folder / "report" / "best-of-test.json").read_text())
    assert data["selector"] == {"length": 1.0}
    for policy in ("initial", "trained"):
        last = data["policies"][policy]["curve"][-1]["metrics"]
        assert {"reward", "proxy", "gold"} <= last.keys()
        assert last["reward"]["gain"]["mean"] > 0
    same = [data["policies"][policy]["curve"] for policy in ("initial", "trained")]
    assert same[0] == same[1]  # nothing was trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--best-of", "1"], "n of 2 or more"),
        (["--best-of", "8", "--k", "16"], "at least 4"),
        (["--best-of", "4", "--folds", "2"], "--folds"),
    ],
)
def test_impossible_requests_are_refused(
    run: Run, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.folder), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_settings_that_make_no_sense_are_refused_or_named() -> None:
    config = default_config(ENV, "gru", "best_of_n")
    check_config(config)
    with pytest.raises(UserError, match="trains nothing"):
        validate(update(config, {"evaluation.every": 1, "evaluation.stop_kl": 1.0}))
    trained = update(default_config(ENV, "gru", "rloo"), {"evaluation.best_of": 4})
    assert "evaluation.best_of" in unused_settings(trained)


def test_the_exact_kl_stands_beside_the_bound_where_completions_can_be_enumerated(tmp_path: Path) -> None:
    run = rlalign.train("parity?max_length=4", "gru", "best_of_n", output=tmp_path / "a", quiet=True,
                        rollout__max_new=2, evaluation__prompts=4, evaluation__best_of=4)  # fmt: skip
    data = json.loads((run.folder / "report" / "best-of-validation.json").read_text())
    points = data["policies"]["initial"]["curve"]
    assert points[0]["kl_exact"] == pytest.approx(0.0, abs=1e-9)
    assert 0 < points[-1]["kl_exact"] < points[-1]["kl_upper_bound"]


def test_a_reward_that_is_an_object_selects_in_the_process_that_has_it(tmp_path: Path) -> None:
    def short(completions: list[str], **columns: object) -> list[float]:
        return [-float(len(text)) for text in completions]

    run = rlalign.train("reverse", "gru", "best_of_n", [short], output=tmp_path / "a", quiet=True,
                        evaluation__prompts=2, evaluation__best_of=2)  # fmt: skip
    best = run.best_of(2, prompts=2)
    assert list(best.selector) == ["short"]
    with pytest.raises(UserError, match="Python object"):
        Run(run.folder).best_of(2, prompts=2)

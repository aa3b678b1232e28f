"""Before and after: the paired interval against scipy's, failed samples, and reproducibility."""

import numpy as np
import pytest
from scipy import stats

import rlalign
from rlalign.build import build_mdp, build_policy
from rlalign.defaults import default_config
from rlalign.evaluation import Comparison, Evaluation, evaluate, held_out, paired_difference
from rlalign.types import Sampling


def test_interval_is_the_paired_t_interval_over_prompts():
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(20, 3)), rng.normal(0.4, 1, size=(20, 3))
    d = paired_difference(before, after)
    expected = stats.ttest_rel(after.mean(1), before.mean(1)).confidence_interval(0.95)
    assert (d.low, d.high) == pytest.approx((expected.low, expected.high))
    assert d.n == 20


def test_failed_samples_and_prompts_are_left_out():
    before = np.array([[1.0, np.nan], [2.0, 2.0], [np.nan, np.nan], [0.0, 0.0]])
    after = np.array([[2.0, 2.0], [3.0, 3.0], [9.0, 9.0], [2.0, 2.0]])
    d = paired_difference(before, after)
    assert d.n == 3
    assert d.mean == pytest.approx((1 + 1 + 2) / 3)


@pytest.mark.parametrize(
    ("shift", "said"), [(1.0, "got better"), (-1.0, "got worse"), (0.0, "No difference can be claimed")]
)
def test_verdict_follows_the_interval(shift, said):
    noise = np.random.default_rng(0).normal(0, 0.3, (16, 1))
    before = Evaluation({"reward": noise}, [""] * 16, [[""]] * 16)
    other = np.random.default_rng(5).normal(0, 0.3, (16, 1))
    assert said in Comparison(before, Evaluation({"reward": other + shift}, [""] * 16, [[""]] * 16)).verdict


def test_evaluation_repeats_bitwise_and_leaves_the_policy_alone():
    config = default_config("rlalign/Reverse-v0", "gru", "rloo")
    policy, mdp = build_policy(config, build_mdp(config))
    tasks = held_out(mdp, "test", 8)
    runs = [evaluate(policy, mdp, tasks, samples=2, sampling=Sampling(), seed=3) for _ in range(2)]
    assert runs[0].completions == runs[1].completions
    assert runs[0].metrics["reward"].shape == (8, 2)
    assert np.abs(runs[0].metrics["kl"]).max() < 1e-4  # the policy is its own start
    assert all(t.split == "test" for t in tasks)


def test_a_run_evaluates_its_start_against_its_result(tmp_path):
    run = rlalign.train("reverse?max_length=3", "gru", steps=40, output=tmp_path / "run", quiet=True)
    found = run.evaluate(prompts=16, samples=2)
    assert found.differences["reward"].mean > 0
    assert (tmp_path / "run" / "report" / "evaluation-test.json").is_file()
    again = run.evaluate(split="validation")
    assert again.after.completions == run.comparison.after.completions  # the saved policy is the trained one

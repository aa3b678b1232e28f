"""Evaluation before and after: paired intervals against scipy, the verdict, failed samples, and reproducibility."""

import json
import re

import numpy as np
import pytest
import torch
from scipy import stats

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.evaluation.before_after import Comparison, paired_difference
from rlalign.evaluation.evaluate import Evaluation, evaluate, few_prompts, held_out
from rlalign.evaluation.evaluate_run import restore_trained
from rlalign.evaluation.transcripts import sample_texts
from rlalign.policies.factory import make_policy
from rlalign.rollout.task_results import successes
from rlalign.storage import checkpoint
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
    ("shift", "claim"),
    [(1.0, "reward improved by +"), (-1.0, "reward decreased by "), (0.0, "no difference can be claimed: reward ")],
)
def test_the_verdict_follows_the_interval(shift, claim):
    noise = np.random.default_rng(0).normal(0, 0.3, (16, 1))
    before = Evaluation({"reward": noise}, [""] * 16, [[""]] * 16)
    other = np.random.default_rng(5).normal(0, 0.3, (16, 1))
    comparison = Comparison(before, Evaluation({"reward": other + shift}, [""] * 16, [[""]] * 16))
    d = comparison.differences["reward"]
    assert comparison.verdict.startswith(claim)
    assert f"{abs(d.mean):.3f}" in comparison.verdict
    assert comparison.verdict.endswith(f"[{d.low:+.3f}, {d.high:+.3f}], 16 held-out prompts)")


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (0.5, "reward improved by +0.500 on each of 4 held-out prompts"),
        (-0.5, "reward decreased by 0.500 on each of 4 held-out prompts"),
        (0.0, "no difference can be claimed: the reward is the same on each prompt (4 held-out prompts)"),
    ],
)
def test_equal_differences_get_no_interval(gain, verdict):
    """An interval of zero width would claim that the difference on the next prompt is certain."""
    before, after = (Evaluation({"reward": np.full((4, 2), x)}, [""] * 4, [[""]] * 4) for x in (0.0, gain))
    assert Comparison(before, after).verdict == verdict


def test_a_small_significant_difference_is_printed_with_its_digits():
    gains = np.array([[0.0002], [0.0003], [0.0004], [0.0003]])
    before, after = (Evaluation({"reward": 0.5 + x}, [""] * 4, [[""]] * 4) for x in (0 * gains, gains))
    claim = r"by \+0\.0003 \(95 % CI \[\+0\.000[12], \+0\.0004\]"
    assert re.search(claim, Comparison(before, after).verdict)
    assert "decreased by 0.0003 (95 % CI" in Comparison(after, before).verdict


def test_means_are_over_the_prompts_of_the_difference():
    before = Evaluation({"distinct_2": np.array([[1.0], [0.5], [np.nan]])}, [""] * 3, [[""]] * 3)
    after = Evaluation({"distinct_2": np.array([[np.nan], [0.5], [1.0]])}, [""] * 3, [[""]] * 3)
    comparison = Comparison(before, after)
    assert comparison.means("distinct_2") == (0.5, 0.5)
    nothing = Evaluation({"distinct_2": np.full((3, 1), np.nan)}, [""] * 3, [[""]] * 3)
    assert Comparison(before, nothing).means("distinct_2") == pytest.approx((0.75, np.nan), nan_ok=True)


def test_cut_completions_of_tasks_with_answers_are_reported_in_words():
    metrics = {"truncated": np.array([[1.0] * 10, [1.0] * 9 + [0.0]]), "length": np.full((2, 10), 8.0)}
    texts = [""] * 2, [[""] * 10] * 2
    answers = Evaluation(metrics, *texts, columns=[{"answer": "4"}, {"answer": "5"}])
    message = "95 % of the completions were cut at 8 tokens before they ended; raise --rollout.max-new"
    assert Comparison(answers, answers).cut == message
    assert Comparison(answers, Evaluation(metrics, *texts)).cut == ""
    shorter = Evaluation({**metrics, "truncated": np.full((2, 10), 0.5)}, *texts, columns=answers.columns)
    assert Comparison(answers, shorter).cut == ""


def test_a_split_of_one_prompt_gives_a_warning_with_the_rows_that_are_needed():
    def warning(rows):
        return few_prompts(make_mdp([{"prompt": f"{i}"} for i in range(rows)], rewards=["length"]), "validation")

    assert "the split validation has one prompt" in warning(3)
    assert "15 rows of different prompts in all" in warning(14)
    assert warning(15) == ""


def test_a_single_scored_prompt_gives_no_verdict():
    evaluation = Evaluation({"reward": np.array([[1.0], [np.nan]])}, [""] * 2, [[""]] * 2)
    assert Comparison(evaluation, evaluation).verdict == "too few prompts could be scored (1)"


def test_equal_arguments_give_equal_evaluations():
    config = default_config("rlalign/Reverse-v0", "gru", "rloo")
    policy, mdp = build_policy(config, build_mdp(config))
    tasks = held_out(mdp, "test", 8)
    runs = [evaluate(policy, mdp, tasks, samples=2, sampling=Sampling(), seed=3) for _ in range(2)]
    assert runs[0].completions == runs[1].completions
    assert runs[0].metrics["reward"].shape == (8, 2)
    assert np.abs(runs[0].metrics["kl"]).max() < 1e-4  # the policy is the reference policy
    assert all(t.split == "test" for t in tasks)


def test_held_out_prompts_differ_and_hidden_columns_distinguish_tasks_of_several_turns():
    few = make_mdp("copy?alphabet=ab&max_length=4")  # 28 strings: a split draws each many times
    prompts = [task.prompt for task in held_out(few, "train", 64)]
    assert 10 < len(prompts) == len({*prompts}) < 28
    several = held_out(make_mdp("dialogue"), "test", 20)  # 16 prompts; the goal of the customer is a hidden column
    assert len({task.prompt for task in several}) <= 16 < len({str(task) for task in several}) == 20


@pytest.mark.pictures
def test_a_run_evaluates_its_initial_policy_and_the_trained_one(tmp_path):
    run = rlalign.train("reverse?max_length=3", "gru", steps=40, output=tmp_path / "run", quiet=True)
    comparison = run.evaluate(prompts=16, samples=2)
    assert comparison.differences["reward"].mean > 0
    assert (tmp_path / "run" / "report" / "evaluation-test.json").is_file()
    assert (tmp_path / "run" / "report" / "evaluation-test.png").stat().st_size > 1000
    evaluation = run.evaluate(split="validation")
    assert evaluation.after.completions == run.comparison.after.completions  # the saved policy is the trained one


def test_folds_are_disjoint_parts_of_the_prompts():
    before, after = np.zeros((6, 1)), np.array([[1.0], [2], [3], [4], [5], [6]])
    texts = ([""] * 6, [[""]] * 6)
    comparison = Comparison(Evaluation({"reward": before}, *texts), Evaluation({"reward": after}, *texts), folds=2)
    estimates = comparison.cross_validated["reward"]  # folds 1, 3, 5 and 2, 4, 6
    assert (estimates["before"], estimates["after"], estimates["difference"]) == (0.0, 3.5, 3.5)
    assert estimates["difference_std"] == pytest.approx(np.std([3, 4], ddof=1))
    assert comparison.to_dict()["folds"]["count"] == 2
    assert "folds" not in Comparison(comparison.before, comparison.after).to_dict()


def test_an_answer_is_correct_by_the_gold_score_or_a_verifier():
    metrics = {"reward": np.array([[2.0, 1.9]]), "exact_match": np.array([[0.0, 1.0]])}
    assert successes(2.0, metrics).tolist() == [[True, False]]
    assert successes(None, metrics).tolist() == [[False, True]]
    assert successes(None, {"reward": metrics["reward"]}) is None


def test_an_evaluation_has_the_metrics_of_papers():
    config = default_config("rlalign/Reverse-v0", "gru", "rloo")
    policy, mdp = build_policy(config, build_mdp(config))
    evaluation = evaluate(policy, mdp, held_out(mdp, "test", 4), samples=4, sampling=Sampling(), seed=0)
    assert {"entropy", "distinct_2", "kl", "length", "truncated", "fluency"} <= evaluation.metrics.keys()
    np.testing.assert_allclose(
        evaluation.metrics["entropy"], -evaluation.metrics["fluency"], atol=1e-4
    )  # it is the reference policy
    correct = evaluation.metrics["reward"] == mdp.gold_score
    assert evaluation.report.figures["avg@4"] == pytest.approx(correct.mean())
    assert evaluation.report.figures["pass@4"] == pytest.approx(correct.any(1).mean())
    assert evaluation.report.figures["pass@1"] == pytest.approx(correct.mean())
    assert "accuracy" not in evaluation.report.figures
    mdp.metrics = ("classification",)
    labeled = evaluate(policy, mdp, held_out(mdp, "test", 4), samples=4, sampling=Sampling(), seed=0)
    assert "accuracy" in labeled.report.figures


def test_the_command_compares_with_another_policy_over_folds(tmp_path, capsys):
    from rlalign.cli import main

    run = rlalign.train("reverse", "gru", steps=2, output=tmp_path / "run", quiet=True, rollout__prompts=2)
    words = ["evaluate", str(run.folder), "--baseline", str(run.folder), "--k", "2", "--folds", "3", "--prompts", "6"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "over 3 folds" in output
    assert "pass@2" in output
    report = json.loads((run.folder / "report" / "evaluation-test.json").read_text())
    assert report["metrics"]["reward"]["difference"]["mean"] == 0.0  # the baseline is the run itself
    assert report["corpus"]["after"]["figures"].keys() >= {"pass@1", "pass@2", "avg@2"}
    with pytest.raises(UserError, match="folds: expected 2 to 6 for 6 prompts, got 9"):
        run.evaluate(prompts=6, folds=9)


def test_another_environment_is_scored_with_its_own_rewards_unless_told_otherwise(tmp_path, capsys):
    from rlalign.cli import main

    small = {"steps": 1, "rollout__prompts": 2, "evaluation__prompts": 2, "quiet": True, "output": tmp_path / "run"}
    run = rlalign.train("reverse", "gru", rewards=["length", "repetition"], **small)
    own = run.evaluate(env="copy", prompts=2).after.metrics
    assert {"exact_match", "token_match"} <= own.keys()
    assert not {"reward/length", "repetition"} & own.keys()
    told = run.evaluate(env="copy", prompts=2, rewards=["repetition"]).after.metrics
    assert "repetition" in told
    assert "exact_match" not in told
    assert "repetition" in run.evaluate(prompts=2).after.metrics  # rewards of another environment are not stored
    assert (
        main(["evaluate", str(run.folder), "--env", "copy", "--reward", "+length=0", "--prompts", "2", "--json"]) == 0
    )
    assert {"exact_match", "reward/length"} <= json.loads(capsys.readouterr().out)["metrics"].keys()


def test_samples_tables_and_generate_have_whole_trajectories(tmp_path, capsys):
    from rlalign.cli import main

    small = {"steps": 1, "rollout__prompts": 2, "evaluation__prompts": 2, "output": tmp_path / "run", "quiet": True}
    run = rlalign.train("guess_number", "gru", **small)
    sample = run.samples[0]
    roles = [message["role"] for message in sample["messages"]]
    assert roles[0] == "user"
    assert roles[1:] == (["assistant", "environment"] * 9)[: len(roles) - 1]
    assert "environment" in [message["role"] for s in run.samples for message in s["messages"]]
    turns = [message["content"] for message in sample["messages"] if message["role"] == "assistant"]
    assert sample["completion"] == "\n".join(turns)
    assert sample["columns"].keys() == {"number", "answer"}
    stored = json.loads((run.folder / "report" / "evaluation.json").read_text())["samples"]
    assert stored[0]["columns"].keys() == {"number", "answer"}
    shown = sample_texts(stored[0], "after")[0]
    assert "environment: " in shown
    assert sample_texts({"before": ["x"], "after": ["y"]}, "after") == ["y"]  # a file of an earlier version
    assert main(["generate", str(run.folder), "guess 1-9", "--column", "number=5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("guess 1-9\nassistant: ")
    assert "\nenvironment: " in out


def test_the_weights_of_the_newest_checkpoint_that_verifies_are_evaluated(tmp_path):
    policy = make_policy("gru", tokenizer=rlalign.make_mdp("reverse").tokenizer)
    parts = {"policy": policy.trainable(), "progress": {}}
    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", step, parts, config_hash="h")
    (tmp_path / "checkpoints" / "step-2" / "policy.safetensors").write_bytes(b"damaged")
    weights = next(iter(policy.trainable().values()))
    saved = weights.detach().clone()
    with torch.no_grad():
        weights.add_(1.0)
    with pytest.warns(UserWarning, match=r"step-2/policy\.safetensors' is damaged .*; the weights of step-1 are eval"):
        restore_trained(policy, tmp_path)
    assert torch.equal(weights, saved)

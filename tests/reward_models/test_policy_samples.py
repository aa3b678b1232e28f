"""Best-of-k accuracy and reward variance among the samples of a policy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.reward_models.policy_samples import PolicySamples, best_of_k, read_samples, sample_metrics
from rlalign.rewards.reward_model.folder import load_scorer


def test_metrics_by_hand():
    scores = [np.array([1.0, 3.0]), np.array([2.0, 2.0]), np.array([0.0, np.nan, 4.0])]
    gold = [np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.array([5.0, 9.0, 1.0])]
    metrics = sample_metrics(PolicySamples(scores, gold))
    assert metrics.prompts == 3
    assert metrics.variance == pytest.approx((2 + 0 + 8) / 3)
    assert metrics.share_within == pytest.approx(metrics.variance / (metrics.variance + 0.0))
    assert metrics.flat == pytest.approx(1 / 3)
    assert metrics.best_of_k.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics.chance == pytest.approx(0.5)
    assert metrics.gold_gain.value == pytest.approx((0.5 + 0 - 2) / 3)
    json.dumps(metrics.to_json(), allow_nan=False)


def test_equal_best_samples_share():
    assert best_of_k(np.array([2.0, 2.0, 1.0]), np.array([7.0, 7.0, 9.0])) == 0.0
    assert best_of_k(np.array([2.0, 2.0, 1.0]), np.array([9.0, 7.0, 1.0])) == 0.5


def test_without_gold_only_the_variance_is_measured():
    metrics = sample_metrics(PolicySamples([np.array([1.0, 2.0])]))
    assert metrics.best_of_k is None
    with pytest.raises(UserError, match="two or more scored samples"):
        sample_metrics(PolicySamples([np.array([1.0, np.nan])]))


def test_file_of_samples_is_scored(tmp_path, linear):
    scorer, _ = load_scorer(linear)
    path = tmp_path / "samples.jsonl"
    rows = [{"prompt": "p", "completions": ["clear kind", "rude"], "gold": [1, 0], "cut": [False, True]}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sample_metrics(read_samples(path, scorer)).best_of_k.value == 1.0
    for change, message in (({"gold": [1]}, "expected 2 values in 'gold'"), ({"completions": "x"}, "other columns")):
        path.write_text(json.dumps({**rows[0], **change}) + "\n")
        with pytest.raises(UserError, match=message):
            read_samples(path, scorer)


def test_policy_of_a_run_is_sampled(tmp_path, linear):
    import rlalign
    from rlalign.reward_models.policy_samples import sample_run

    settings = {"steps": 1, "quiet": True, "rollout__prompts": 2, "evaluation__prompts": 2}
    rlalign.train("preference", "gru", output=tmp_path / "run", **settings)
    gold = "rlalign.envs.builtin.reward_hacking.preference:gold"
    samples = sample_run(tmp_path / "run", str(linear), gold=gold, prompts=3, k=4)
    assert [scores.shape for scores in (*samples.scores, *samples.gold)] == [(4,)] * 6
    again = sample_run(tmp_path / "run", str(linear), gold=gold, prompts=3, k=4)
    assert np.array_equal(samples.scores, again.scores)
    assert sample_metrics(samples).prompts == 3

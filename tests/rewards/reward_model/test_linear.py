"""The linear reward model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.linear import EXTRA, LinearScorer, features, vectorizer
from rlalign.rewards.reward_model.rendering import Sample


def test_features_by_hand():
    fitted = vectorizer(("clear", "clear kind", "kind"), np.array([2.0, 3.0, 1.0]))
    row = features([Sample("ignored", "Clear kind!", cut=True)], fitted).toarray()[0]
    # counts 1, 1, 1 times idf 2, 3, 1, scaled to length 1; then log(1 + 2 words), and 0 for a cut completion
    assert row == pytest.approx([*(np.array([2, 3, 1]) / np.sqrt(14)), np.log(3), 0.0])


def test_scores_are_weights_times_features():
    scorer = LinearScorer(("clear",), np.array([1.0]), np.array([2.0, 0.5, 4.0]))
    samples = [Sample("p", "clear"), Sample("p", "clear", cut=True), Sample("p", "")]
    assert scorer.scores(samples) == pytest.approx([2 + 0.5 * np.log(2) + 4, 2 + 0.5 * np.log(2), 4.0])
    assert scorer.scores([]).shape == (0,)


def test_folder_has_no_pickle(linear):
    names = sorted(path.name for path in linear.iterdir())
    assert names == ["features.json", "reward_model.json", "training_prompts.list", "weights.safetensors"]


def test_files_that_do_not_fit_are_refused(tmp_path, linear):
    folder = shutil.copytree(linear, tmp_path / "rm")
    content = json.loads((folder / "features.json").read_text())
    assert content["extra"] == list(EXTRA)
    (folder / "features.json").write_text(json.dumps({**content, "vocabulary": content["vocabulary"][1:]}))
    with pytest.raises(UserError, match="frequencies and"):
        load_scorer(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"expected features.json and weights.safetensors"):
        load_scorer(folder)

"""Ensembles: members are centered before they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.reward_models import Settings, train_reward_model
from rlalign.rewards import compose
from rlalign.rewards.reward_model.ensemble import EnsembleScorer
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.rendering import Sample


class Constant:
    """Scores each sample with its number plus a constant, times a factor."""

    def __init__(self, offset: float, factor: float = 1.0) -> None:
        self._offset, self._factor = offset, factor

    def scores(self, samples):
        return self._factor * np.arange(len(samples), dtype=float) + self._offset


def test_offsets_of_members_do_not_matter():
    samples = [Sample("", "x")] * 3
    plain = EnsembleScorer([Constant(0), Constant(0, 3.0)], [0.0, 0.0], "min")
    shifted = EnsembleScorer([Constant(100), Constant(-7, 3.0)], [100.0, -7.0], "min")
    assert plain.scores(samples).tolist() == shifted.scores(samples).tolist() == [0.0, 1.0, 2.0]


def test_mean_minimum_and_disagreement():
    ensemble = EnsembleScorer([Constant(0), Constant(0, 3.0)], [0.0, 0.0])
    values = ensemble.member_scores([Sample("", "x")] * 3)
    assert ensemble.combined(values).tolist() == [0.0, 2.0, 4.0]
    assert ensemble.combined(values, "penalised", 0.5).tolist() == [0.0, 1.5, 3.0]  # sd of (i, 3i) is i
    with pytest.raises(UserError, match="how to be one of mean, min, penalised"):
        ensemble.combined(values, "median")


def test_folder_of_seeds_is_an_ensemble(tmp_path, pairs_file):
    result = train_reward_model(pairs_file, tmp_path / "rm", Settings(model="linear", seeds=3, how="min"))
    scorer, manifest = load_scorer(tmp_path / "rm")
    assert manifest.members == ("member-0", "member-1", "member-2")
    samples = [Sample("p", " clear kind"), Sample("p", " rude")]
    values = scorer.member_scores(samples)
    assert values.shape == (3, 2)
    assert len({float(v) for v in values[:, 0]}) == 3  # members differ by their bootstrap samples
    for spec, expected in (("", values.min(0)), ("?how=mean", values.mean(0)),
                           ("?how=penalised&coef=2", values.mean(0) - 2 * values.std(0))):  # fmt: skip
        with compose(f"{result.folder}{spec}") as total:
            scores = total.score("episode", ["p"] * 2, [" clear kind", " rude"], [[1]] * 2, truncated=[False] * 2)
        assert scores.total == pytest.approx(expected)

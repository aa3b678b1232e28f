"""TRL's trainers and those of this library learn one small environment with equal budgets."""

import numpy as np
import pytest

import rlalign
from rlalign.run import Run

ENV = "reverse?max_length=2"


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_both_trainers_learn_the_same_environment(tmp_path, algorithm):
    """The reward rises from below 0.25 to above 0.4 in 40 steps of 128 samples, from the same initial policy.

    Both end near 0.6 to 0.8.
    """
    runs = {
        name: rlalign.train(
            ENV, "tiny", name, steps=40, output=tmp_path / name.replace(":", "-"), quiet=True, evaluation__prompts=2
        )
        for name in (algorithm, f"trl:{algorithm}")
    }
    for run in runs.values():
        rewards = run.metrics["reward/mean"]
        assert len(rewards) == 40
        assert rewards[0] < 0.25
        assert np.mean(rewards[-5:]) > 0.4
    ours, theirs = runs.values()
    assert ours.comparison.before.completions == theirs.comparison.before.completions
    assert ours.config.objective == theirs.config.objective
    assert Run(theirs.folder).policy is not None

"""Learning by TRL's trainers and by rlalign's own, in one small environment with equal budgets."""

import numpy as np
import pytest

import rlalign
from rlalign.run import Run

ENV = "reverse?max_length=2"


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_both_trainers_learn_the_same_environment(tmp_path, algorithm):
    """From below 0.25 to above 0.4 in 40 steps of 128 samples (both end near 0.6 to 0.8); same initial policy."""
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
    own_run, trl_run = runs.values()
    assert own_run.comparison.before.completions == trl_run.comparison.before.completions
    assert own_run.config.objective == trl_run.config.objective
    assert Run(trl_run.folder).policy is not None

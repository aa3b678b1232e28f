"""Results of an environment with failed seeds: they are scored as the initial policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlalign.compare.analysis.environment import analyze_environment
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import Curve

PROMPTS = 8
START = 0.1


def test_a_failed_seed_is_scored_as_its_initial_policy(make_record: Any) -> None:
    """Fails if the seed is left out, and if its partial result or the initial reward of another seed is used.

    Fails also if the common budget or the common KL exceeds that of a finished run.
    """
    last = 5

    def record(algorithm: str, seed: int, budget: list[float], reward: list[float], kl: list[float]) -> Record:
        failed = algorithm == "b" and seed == last
        base: Record = make_record(algorithm, seed, None if failed else np.full(PROMPTS, reward[-1]))
        curve = Curve([0, 1, 2], budget, budget, budget, budget, list(reward), list(kl))
        before = {} if failed else {"reward": np.full(PROMPTS, START + seed / 100)}
        return replace(base, before=before, held_out=None if failed else curve, training=curve)

    a = {s: record("a", s, [0.0, 50.0, 100.0], [0.1, 0.3, 0.5], [0.0, 1.0, 2.0]) for s in range(last + 1)}
    b = {s: record("b", s, [0.0, 40.0, 80.0], [0.1, 0.2, 0.3], [0.0, 2.0, 4.0]) for s in range(last + 1)}
    env = analyze_environment({"a": a, "b": b}, threshold=0.4)
    ours, theirs = env.algorithms["a"], env.algorithms["b"]
    assert theirs.failed == [False] * last + [True]
    assert theirs.final[last] == ours.start[last] == pytest.approx([START + last / 100] * PROMPTS)
    assert theirs.mean.value == pytest.approx((0.3 * last + START + last / 100) / (last + 1))
    assert env.kl_level == 2.0
    assert ours.at_equal_kl_seeds == pytest.approx([0.5] * (last + 1))
    assert theirs.at_equal_kl_seeds[:last] == pytest.approx([0.2] * last)
    assert theirs.at_equal_kl_seeds[last] is None
    # up to 80, the largest budget that all finished runs reached
    assert ours.auc_seeds["tokens"] == pytest.approx([(50 * 0.2 + 30 * 0.36) / 80] * (last + 1))
    assert theirs.auc_seeds["tokens"] == pytest.approx([0.2] * last + [START + last / 100])
    assert theirs.to_threshold["tokens"].reached == [False] * (last + 1)
    assert theirs.to_threshold["tokens"].spent == [80.0] * (last + 1)

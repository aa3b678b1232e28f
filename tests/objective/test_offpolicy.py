"""Off-policy weights against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch

from rlalign.objective import OffPolicy
from rlalign.objective.offpolicy import weights


@pytest.mark.parametrize(("delta", "expected"), [(0.05, [0.0, 1.0, 1.0]), (0.2, [1.0, 1.0, 1.0])])
def test_the_sequence_mask_reads_the_mean_drift_of_a_row(delta: float, expected: list[float]) -> None:
    """Rows: A < 0 with a drift of 0.1 per token and 0.3 in sum; A > 0 with the same; A < 0 without drift."""
    sampler = torch.full((3, 3), -1.0)
    logprobs = sampler - torch.tensor([[0.1], [0.1], [0.0]])
    advantages = torch.tensor([[-1.0], [1.0], [-1.0]]).expand(3, 3)
    mask = torch.ones(3, 3, dtype=torch.bool)
    spec = OffPolicy("opsm", delta=delta)
    assert weights(spec, logprobs, sampler, sampler, advantages, mask)[:, 0].tolist() == expected


def test_truncated_and_masked_weights_are_bounded_per_token_and_per_sequence() -> None:
    old = torch.log(torch.tensor([[0.2, 0.6]]))
    sampler = torch.log(torch.tensor([[0.4, 0.2]]))  # w = 0.5 and 3; their product is 1.5
    mask, zeros = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    expected = {
        ("tis", "token"): [0.5, 2.0],
        ("tis", "sequence"): [1.5, 1.5],
        ("mis", "token"): [0.5, 0.0],
        ("mis", "sequence"): [1.5, 1.5],
    }
    for (kind, level), values in expected.items():
        spec = OffPolicy(kind, level=level, low=0.1, high=2.0)  # type: ignore[arg-type]  # two of its kinds
        actual = weights(spec, zeros, old, sampler, zeros, mask).expand(1, 2)
        torch.testing.assert_close(actual, torch.tensor([values]))

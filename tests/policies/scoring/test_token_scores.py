"""Scores in parts, so that not all logits are in memory at once, are those of one part."""

from __future__ import annotations

import pytest
import torch

from rlalign.policies.scoring import token_scores
from rlalign.policies.scoring.token_scores import plain_scorer
from rlalign.types import Sampling


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_parts_have_the_log_probs_entropies_and_gradients_of_one(
    monkeypatch: pytest.MonkeyPatch, rows: int, entropy: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 5, generator=generator).requires_grad_()
    states = torch.randn(7, 5, generator=generator)
    targets = torch.randint(11, (7,), generator=generator)
    scorer = plain_scorer(lambda h: h @ weight.t(), 11)
    expected = scorer(states, targets, Sampling(0.8, 6), entropy)
    monkeypatch.setattr(token_scores, "_LOGIT_BYTES", 4 * 11 * rows)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            got = scorer(states, targets, Sampling(0.8, 6), entropy)
        torch.testing.assert_close(got[0], expected[0], check_dtype=False)
        if entropy:
            torch.testing.assert_close(got[1], expected[1])
        else:
            assert got[1] is None
    # a top-k distribution has log-probs of -inf, whose gradient is not compared
    scorer = plain_scorer(lambda h: h @ weight.t(), 11)
    (gradient,) = torch.autograd.grad(scorer(states, targets, Sampling(), entropy)[0].sum(), weight)
    monkeypatch.undo()
    (whole,) = torch.autograd.grad(scorer(states, targets, Sampling(), entropy)[0].sum(), weight)
    torch.testing.assert_close(gradient, whole)

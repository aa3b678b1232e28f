"""Trust regions against numbers computed by hand."""

from __future__ import annotations

import torch

from rlalign.objective import Trust, TrustInput
from rlalign.objective.trust import divergence_mask, log_clip, soft_gate


def test_trust_regions_match_hand_computed_numbers() -> None:
    log_ratio = torch.log(torch.tensor([[1.5, 0.5, 1.0]]))
    mask = torch.ones(1, 3, dtype=torch.bool)
    for sign in (1.0, -1.0):
        advantages = torch.full((1, 3), sign)
        logprobs = torch.log(torch.tensor([[0.6, 0.3, 0.4]]))
        x = TrustInput(log_ratio.exp(), log_ratio, advantages, logprobs, mask, plain=False)
        _, cut = divergence_mask(x, Trust(delta=0.15))  # |0.6 - 0.4| = 0.2, |0.3 - 0.6| = 0.3, 0
        assert cut.tolist() == [[sign > 0, sign < 0, False]]
        gain, _ = log_clip(x, Trust(low=0.3, high=0.4))  # the two bounds are different numbers
        clipped = log_ratio.clamp(max=0.4) if sign > 0 else log_ratio.clamp(min=-0.3)
        torch.testing.assert_close(gain, (sign * clipped.mean().exp()).expand(1, 3))
        gate, _ = soft_gate(x, Trust())
        tau = 1.0 if sign > 0 else 1.05
        torch.testing.assert_close(gate, 4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * sign)

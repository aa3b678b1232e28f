"""Per-component normalization against values computed by hand, and rejected scopes."""

import pytest
import torch

from rlalign.errors import UserError
from rlalign.rollout.collect import Rollout
from rlalign.rollout.component_normalization import check_scopes, normalize, normalize_components


def rollout(components, groups, valid=None):
    """Return a rollout of four tokens per row, two of them actions, with these components and group ids."""
    n = len(groups)
    mask = torch.tensor([[False, True, True, False]] * n)
    return Rollout(
        tokens=torch.zeros(n, 4, dtype=torch.long), lengths=torch.full((n,), 3), action_mask=mask,
        sampler_logprobs=torch.zeros(n, 4), rewards=torch.ones(n, 4),
        valid=torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid),
        components={k: torch.tensor(v, dtype=torch.float64) for k, v in components.items()},
        group_ids=torch.tensor(groups), terminated=mask[:, 0], truncated=mask[:, 0],
        tasks=[], prompts=[""] * n, completions=[""] * n, messages=[[]] * n, extra=[{}] * n,
    )  # fmt: skip


def test_each_group_is_centered_and_scaled_separately():
    values, groups = torch.tensor([1.0, 3, 10, 10, 5]), torch.tensor([0, 0, 1, 1, 2])
    normalized = normalize(values, groups, torch.ones(5, dtype=torch.bool))
    assert normalized.tolist() == [-1, 1, 0, 0, 0]


def test_failed_and_missing_values_are_left_out_and_become_0():
    values = torch.tensor([1.0, 3.0, 99.0, torch.nan])
    normalized = normalize(values, torch.zeros(4, dtype=torch.long), torch.tensor([True, True, False, True]))
    assert normalized.tolist() == [-1, 1, 0, 0]


def test_the_reward_is_the_weighted_sum_of_normalized_components_on_the_last_action():
    original = rollout({"big": [0.0, 1000.0], "small": [1.0, 0.0], "metric": [5.0, 0.0]}, [0, 0])
    normalized = normalize_components(original, {"big": 1.0, "small": 2.0, "metric": 0.0})
    # the weight of `small` is twice that of `big`, and its smaller spread has no effect
    assert normalized.rewards.tolist() == [[0, 0, 1, 0], [0, 0, -1, 0]]
    assert original.rewards.sum() == 8  # the logged rewards do not change


def test_weighted_rewards_per_turn_raise_an_error():
    check_scopes({"a": "episode", "b": "turn"}, {"a": 1.0, "b": 0.0})
    with pytest.raises(UserError, match="'b' is a reward per turn"):
        check_scopes({"a": "episode", "b": "turn"}, {"a": 1.0, "b": 1.0})

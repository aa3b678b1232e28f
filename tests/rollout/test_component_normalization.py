"""Per-component normalisation: by hand, and against the sum that lets one component decide alone."""

import pytest
import torch

from rlalign.errors import UserError
from rlalign.rollout.collect import Rollout
from rlalign.rollout.component_normalization import check_scopes, normalize, normalize_components


def rollout(components, groups, valid=None):
    n = len(groups)
    mask = torch.tensor([[False, True, True, False]] * n)
    return Rollout(
        tokens=torch.zeros(n, 4, dtype=torch.long), lengths=torch.full((n,), 3), action_mask=mask,
        sampler_logprobs=torch.zeros(n, 4), rewards=torch.ones(n, 4),
        valid=torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid),
        components={k: torch.tensor(v, dtype=torch.float64) for k, v in components.items()},
        group_ids=torch.tensor(groups), terminated=mask[:, 0], truncated=mask[:, 0],
        tasks=[], prompts=[""] * n, completions=[""] * n,
    )  # fmt: skip


def test_each_group_is_centred_and_scaled_by_itself():
    values, groups = torch.tensor([1.0, 3, 10, 10, 5]), torch.tensor([0, 0, 1, 1, 2])
    found = normalize(values, groups, torch.ones(5, dtype=torch.bool))
    assert found.tolist() == [-1, 1, 0, 0, 0]


def test_failed_and_absent_values_have_no_vote():
    values = torch.tensor([1.0, 3.0, 99.0, torch.nan])
    found = normalize(values, torch.zeros(4, dtype=torch.long), torch.tensor([True, True, False, True]))
    assert found.tolist() == [-1, 1, 0, 0]


def test_the_reward_is_the_weighted_sum_of_normalised_components_on_the_last_action():
    made = rollout({"big": [0.0, 1000.0], "small": [1.0, 0.0], "metric": [5.0, 0.0]}, [0, 0])
    found = normalize_components(made, {"big": 1.0, "small": 2.0, "metric": 0.0})
    assert found.rewards.tolist() == [[0, 0, 1, 0], [0, 0, -1, 0]]  # small counts twice as much, whatever its spread
    assert made.rewards.sum() == 8  # what is logged stays


def test_rewards_of_parts_are_refused():
    check_scopes({"a": "episode", "b": "turn"}, {"a": 1.0, "b": 0.0})
    with pytest.raises(UserError, match="'b' is a reward per turn"):
        check_scopes({"a": "episode", "b": "turn"}, {"a": 1.0, "b": 1.0})

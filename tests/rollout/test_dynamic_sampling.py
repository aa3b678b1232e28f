"""Dynamic sampling: replaced groups without reward variance, their order, and the shape of the batch."""

import torch

import rlalign
from rlalign.rollout.collect import Rollout
from rlalign.rollout.dynamic_sampling import has_reward_variance, join, resample_groups
from rlalign.types import Task


def rollout(rewards, width=3, tag=0):
    """Return groups of two rows with these pairs of rewards; `tag` marks tokens and prompts."""
    n = 2 * len(rewards)
    mask = torch.zeros(n, width, dtype=torch.bool)
    mask[:, -1] = True
    flat = torch.tensor(rewards).flatten()
    return Rollout(
        tokens=torch.full((n, width), tag),
        lengths=torch.full((n,), width),
        action_mask=mask,
        sampler_logprobs=-mask.float(),
        rewards=mask * flat.nan_to_num()[:, None],
        valid=~flat.isnan(),
        components={"r": flat.double()},
        group_ids=torch.arange(len(rewards)).repeat_interleave(2),
        terminated=torch.ones(n, dtype=torch.bool),
        truncated=torch.zeros(n, dtype=torch.bool),
        tasks=[Task(f"{tag}.{i // 2}") for i in range(n)],
        prompts=[f"{tag}.{i // 2}" for i in range(n)],
        completions=["x"] * n,
        messages=[[]] * n,
        extra=[{}] * n,
    )


NAN = float("nan")


def test_reward_variance_counts_only_valid_rewards():
    varied = has_reward_variance(rollout([[1.0, 2.0], [1.0, 1.0], [NAN, 1.0], [NAN, NAN]]))
    assert varied.tolist() == [True, False, False, False]


def test_groups_without_reward_variance_are_replaced_by_later_ones():
    later = iter([rollout([[0.0, 0.0], [0.0, 5.0]], width=5, tag=1), rollout([[7.0, 8.0], [9.0, 1.0]], tag=2)])
    filled, drawn = resample_groups(lambda: next(later), rollout([[1.0, 2.0], [3.0, 3.0], [4.0, 4.0]]), max_draws=9)
    assert len(drawn) == 3
    assert filled.prompts[::2] == ["0.0", "1.1", "2.0"]
    assert filled.group_ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert filled.tokens.shape == (6, 5)
    assert filled.returns.tolist() == [1, 2, 0, 5, 7, 8]
    assert filled.components["r"].tolist() == [1, 2, 0, 5, 7, 8]
    assert bool(has_reward_variance(filled).all())
    # metrics are computed from all sampled groups, not only from those that are trained on
    everything = join(drawn)
    assert everything.returns.tolist() == [1, 2, 3, 3, 4, 4, 0, 0, 0, 5, 7, 8, 9, 1]
    assert everything.group_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_missing_groups_are_filled_with_replaced_ones_to_the_full_batch():
    filled, drawn = resample_groups(lambda: rollout([[0.0, 0.0]]), rollout([[3.0, 3.0], [1.0, 2.0]]), max_draws=3)
    assert len(drawn) == 3
    assert filled.prompts[::2] == ["0.1", "0.0"]


def test_a_run_samples_again_until_each_group_has_reward_variance(tmp_path):
    run = rlalign.train(
        "reverse", "gru", "dapo", ["exact_match"], steps=2, output=tmp_path / "run", quiet=True,
        rollout__prompts=2, rollout__max_draws=3, evaluation__prompts=2,
    )  # fmt: skip
    assert max(run.metrics["rollout/draws"]) > 1

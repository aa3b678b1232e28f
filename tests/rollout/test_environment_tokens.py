"""Tokens of the environment are context only: losses, KL, GAE and whitening do not depend on them.

The tests perturb the tensors at the environment's tokens and require bitwise equal advantages, losses and gradients.
They fail for a mask that is off by one, for a mean over all columns, and for GAE over neighboring columns instead of
neighboring actions. One test shifts the mask and shows that the comparison can fail.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlalign.algorithms import algorithm, sampling_presets
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.envs.task_stream import TaskStream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.objective import Batch, compute_advantages, policy_loss, value_loss
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import collect
from rlalign.types import Sampling

MULTI_TURN = ["GuessNumber", "Wordle", "Recommend", "Tools", "Dialogue"]
PER_TOKEN = (
    "rewards",
    "logprobs",
    "old_logprobs",
    "sampler_logprobs",
    "ref_logprobs",
    "values",
    "old_values",
    "entropies",
)


def untrained_rollout(env, seed=0):
    """Return an untrained policy and its rollout of 4 tasks with 4 samples each."""
    config = update(default_config(env=env, policy="gru"), {"seed": seed})
    policy, mdp = build_policy(config, build_mdp(config))
    rollout = collect(
        TokenVectorEnv(mdp, 16), make_sampler("decode", policy), TaskStream(mdp.source, "train", seed=seed).next(4),
        group_size=4, sampling=Sampling(), generator=torch.Generator().manual_seed(seed), seed=seed,
    )  # fmt: skip
    return policy, rollout


def batch_of(rollout, junk=None):
    """Return random tensors for a rollout's mask; `junk` replaces all values outside the mask."""
    g = torch.Generator().manual_seed(1)
    mask = rollout.action_mask
    numbers = {name: torch.randn(mask.shape, generator=g) for name in PER_TOKEN}
    # rewards on random actions, so that credit assignment must cross environment messages
    numbers["rewards"] = torch.where(torch.rand(mask.shape, generator=g) < 0.3, numbers["rewards"].abs(), 0) * mask
    if junk is not None:
        numbers = {name: x.where(mask, torch.full_like(x, junk)) for name, x in numbers.items()}
    numbers["logprobs"].requires_grad_()
    numbers["values"].requires_grad_()
    return Batch(
        action_mask=mask, group_ids=rollout.group_ids, terminated=rollout.terminated, truncated=rollout.truncated,
        final_values=torch.randn(len(mask), generator=g), greedy_rewards=torch.zeros(len(mask)),
        max_length=99, **numbers,
    )  # fmt: skip


def estimates(objective, batch):
    """Return advantages, returns, losses, metrics and gradients."""
    b = compute_advantages(objective, batch)
    policy = policy_loss(objective, b)
    value = value_loss(objective, b)
    return [
        b.advantages.where(b.action_mask, 0), b.returns.where(b.action_mask, 0),
        policy.total, policy.count, value.total,
        *(x for pair in policy.metrics.values() for x in pair),
        torch.autograd.grad(policy.total, batch.logprobs)[0],
        torch.autograd.grad(value.total, batch.values)[0],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def guessing_rollout():
    return untrained_rollout("GuessNumber")[1]


@pytest.mark.parametrize("name", sampling_presets())
@pytest.mark.parametrize("junk", [13.0, -1e30, float("inf"), float("nan")])
def test_environment_tokens_do_not_change_any_estimate(name, junk, guessing_rollout):
    assert (
        guessing_rollout.tokens.shape[1] > guessing_rollout.action_mask.sum(1).max() + 10
    )  # prompts and environment messages add columns
    objective = algorithm(name).objective
    plain, perturbed = (estimates(objective, batch_of(guessing_rollout, j)) for j in (None, junk))
    for a, b in zip(plain, perturbed, strict=True):
        assert torch.equal(a, b)
    assert (perturbed[-2][~guessing_rollout.action_mask] == 0).all()
    assert (perturbed[-1][~guessing_rollout.action_mask] == 0).all()


def test_the_comparison_detects_a_mask_that_is_off_by_one(guessing_rollout):
    objective = algorithm("ppo").objective
    shifted = guessing_rollout.action_mask.roll(1, 1)
    plain, perturbed = (
        estimates(objective, replace(batch_of(guessing_rollout, junk), action_mask=shifted)) for junk in (None, 13.0)
    )
    assert any(not torch.equal(a, b) for a, b in zip(plain, perturbed, strict=True))


@pytest.mark.parametrize("name", MULTI_TURN)
def test_the_mask_covers_exactly_the_tokens_of_the_policy(name):
    _, rollout = untrained_rollout(name)
    assert (rollout.sampler_logprobs[~rollout.action_mask] == 0).all()
    assert (rollout.rewards[~rollout.action_mask] == 0).all()
    assert (rollout.sampler_logprobs[rollout.action_mask] < 0).all()
    turns = (rollout.action_mask[:, 1:] & ~rollout.action_mask[:, :-1]).sum(1)
    assert turns.max() > 1  # environment messages separate the turns


@pytest.mark.parametrize("name", MULTI_TURN)
def test_the_context_is_append_only(name):
    """The context of each turn begins with the ids of the context before it."""
    config = default_config(env=name, policy="gru")
    mdp = build_mdp(config)
    env = TokenVectorEnv(mdp, 8)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    before = env.contexts(range(8))
    expected = [list(c) for c in before]
    while not env.done.all():
        tokens = rng.integers(mdp.tokenizer.vocab_size, size=(8, mdp.max_new))
        segment = env.step_tokens(tokens, np.full(8, mdp.max_new))
        for i in range(8):
            expected[i] += [*tokens[i, : segment.consumed[i]].tolist(), *segment.replies[i]]
        after = env.contexts(range(8))
        assert after == expected
        assert all(new[: len(old)] == old for old, new in zip(before, after, strict=True))
        before = after


def test_a_changed_environment_message_does_not_change_earlier_logprobs(guessing_rollout):
    """Scores of the policy before the changed last message are bitwise equal."""
    policy, rollout = untrained_rollout("GuessNumber")
    tokens = rollout.tokens.clone()
    row = int(rollout.lengths.argmax())
    starts = (rollout.action_mask[row, 1:] & ~rollout.action_mask[row, :-1]).nonzero().flatten() + 1
    last = int(starts[-1])
    tokens[row, last - 1] = 2 + (tokens[row, last - 1] - 1) % 20  # the last id of the message before the last turn
    assert not torch.equal(tokens, rollout.tokens)
    logprobs = [
        policy.score(t, rollout.lengths, rollout.action_mask, Sampling()).logprobs for t in (rollout.tokens, tokens)
    ]
    assert torch.equal(logprobs[0][row, :last], logprobs[1][row, :last])
    assert not torch.equal(logprobs[0][row, last:], logprobs[1][row, last:])

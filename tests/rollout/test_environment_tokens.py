"""What the environment says is context and nothing else: it enters no loss, no KL, no GAE and no whitening.

Each test perturbs the tensors at the environment's tokens and demands bitwise equal advantages, losses and gradients. A
mask that is off by one, a mean over all columns, or GAE over neighbouring columns instead of neighbouring actions all
break them (the mutant at the end shows that the comparison can fail).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlalign.algorithms import ALGORITHMS, algorithm
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.envs.task_sources import TaskStream
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


def played(env, seed=0):
    """A rollout of an untrained policy: 4 tasks, 4 samples each, and the rollout's policy."""
    config = update(default_config(env=env, policy="gru"), {"seed": seed})
    policy, mdp = build_policy(config, build_mdp(config))
    rollout = collect(
        TokenVectorEnv(mdp, 16), make_sampler("decode", policy), TaskStream(mdp.source, "train", seed=seed).next(4),
        group_size=4, sampling=Sampling(), generator=torch.Generator().manual_seed(seed), seed=seed,
    )  # fmt: skip
    return policy, rollout


def batch_of(rollout, junk=None):
    """The objective's tensors for a rollout's mask, drawn at random; `junk` replaces what stands off the mask."""
    g = torch.Generator().manual_seed(1)
    mask = rollout.action_mask
    numbers = {name: torch.randn(mask.shape, generator=g) for name in PER_TOKEN}
    # the episode's reward on each turn's last token and on some others: credit must find them across replies
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


def learnt(objective, batch):
    """Advantages, returns, losses and their gradients."""
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
def guessed():
    return played("GuessNumber")[1]


@pytest.mark.parametrize("name", list(ALGORITHMS))
@pytest.mark.parametrize("junk", [13.0, -1e30, float("inf"), float("nan")])
def test_no_estimator_sees_a_token_of_the_environment(name, junk, guessed):
    assert guessed.tokens.shape[1] > guessed.action_mask.sum(1).max() + 10  # there are prompts and replies
    objective = algorithm(name).objective
    plain, perturbed = (learnt(objective, batch_of(guessed, j)) for j in (None, junk))
    for a, b in zip(plain, perturbed, strict=True):
        assert torch.equal(a, b)
    assert (perturbed[-2][~guessed.action_mask] == 0).all()
    assert (perturbed[-1][~guessed.action_mask] == 0).all()


def test_a_mask_that_is_off_by_one_would_be_found(guessed):
    objective = algorithm("ppo").objective
    late = guessed.action_mask.roll(1, 1)
    plain, perturbed = (learnt(objective, replace(batch_of(guessed, junk), action_mask=late)) for junk in (None, 13.0))
    assert any(not torch.equal(a, b) for a, b in zip(plain, perturbed, strict=True))


@pytest.mark.parametrize("name", MULTI_TURN)
def test_the_mask_covers_what_the_policy_said_and_only_that(name):
    _, rollout = played(name)
    assert (rollout.sampler_logprobs[~rollout.action_mask] == 0).all()
    assert (rollout.rewards[~rollout.action_mask] == 0).all()
    assert (rollout.sampler_logprobs[rollout.action_mask] < 0).all()
    turns = (rollout.action_mask[:, 1:] & ~rollout.action_mask[:, :-1]).sum(1)
    assert turns.max() > 1  # replies stand between turns


@pytest.mark.parametrize("name", MULTI_TURN)
def test_the_context_is_append_only(name):
    """Every context that a turn begins from is continued by the next one, id by id."""
    config = default_config(env=name, policy="gru")
    mdp = build_mdp(config)
    env = TokenVectorEnv(mdp, 8)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    before = env.contexts(range(8))
    said = [list(c) for c in before]
    while not env.done.all():
        tokens = rng.integers(mdp.tokenizer.vocab_size, size=(8, mdp.max_new))
        segment = env.step_tokens(tokens, np.full(8, mdp.max_new))
        for i in range(8):
            said[i] += [*tokens[i, : segment.consumed[i]].tolist(), *segment.replies[i]]
        after = env.contexts(range(8))
        assert after == said
        assert all(new[: len(old)] == old for old, new in zip(before, after, strict=True))
        before = after


def test_other_words_of_the_environment_leave_the_loss_of_earlier_turns_alone(guessed):
    """Through the policy itself: with another last reply, the log-probs before it are bitwise the same."""
    policy, rollout = played("GuessNumber")
    tokens = rollout.tokens.clone()
    row = int(rollout.lengths.argmax())
    starts = (rollout.action_mask[row, 1:] & ~rollout.action_mask[row, :-1]).nonzero().flatten() + 1
    last = int(starts[-1])
    tokens[row, last - 1] = 2 + (tokens[row, last - 1] - 1) % 20  # the last id of the reply before the last turn
    assert not torch.equal(tokens, rollout.tokens)
    scored = [
        policy.score(t, rollout.lengths, rollout.action_mask, Sampling()).logprobs for t in (rollout.tokens, tokens)
    ]
    assert torch.equal(scored[0][row, :last], scored[1][row, :last])
    assert not torch.equal(scored[0][row, last:], scored[1][row, last:])

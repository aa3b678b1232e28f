"""The tabular policy through the real sampler, rollout and learner, against enumeration.

Statistical tests with a fixed seed. With a random seed, a correct library would fail the chi-square test with
probability 1e-6, and the z-test (16 projections, |z| < 5, sigma exact) with probability below 1e-5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rlalign.algorithms import algorithm
from rlalign.config.schema import LearnerConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.oracle import EOS, TokenMDP, projected_moments
from rlalign.policies.sampling.decode_loop import DecodeSampler
from rlalign.policies.tabular import TabularPolicy
from rlalign.rollout.collect import collect
from rlalign.training.learner import Learner
from rlalign.types import Sampling, Scores

START = 1


class ThreeTokens:
    """A tokenizer of three tokens: EOS and two others. Each prompt is the token 1."""

    vocab_size, eos_id, pad_id = 3, EOS, EOS

    def encode(self, text: str) -> list[int]:
        return [int(c) for c in text]

    def encode_prompt(self, prompt: Any) -> list[int]:
        return [START]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(str(i) for i in ids)


class Lookup:
    """The enumerated MDP's reward."""

    weights, scopes = {"lookup": 1.0}, {"lookup": "episode"}

    def __init__(self, mdp: TokenMDP) -> None:
        self.table = dict(zip(mdp.completions, mdp.rewards.tolist(), strict=True))

    def score(self, event: str, prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> Scores:
        total = np.array([self.table[tuple(ids)] for ids in completion_ids])
        return Scores(total, np.ones(len(total), np.bool_), {"lookup": total})


def policy_of(mdp: TokenMDP) -> TabularPolicy:
    """Return a tabular policy with the enumerated MDP's random table, and another table as its reference."""
    policy = TabularPolicy(ThreeTokens(), horizon=4)
    rows = policy.rows(torch.tensor([[START, *p, *[0] * (4 - len(p))] for p in mdp.prefixes]))
    index = torch.tensor([int(rows[i, 1 + len(p)]) for i, p in enumerate(mdp.prefixes)])
    with torch.no_grad():
        policy.table[index] = mdp.table(1)
        policy.reference[index] = mdp.table(2)
    policy.index = index  # type: ignore[assignment]  # of this test only
    return policy


@pytest.fixture(scope="module")
def mdp() -> TokenMDP:
    return TokenMDP()


def draw(policy: TabularPolicy, n: int, seed: int, temperature: float = 1.0) -> Any:
    return DecodeSampler(policy).sample(
        [[START]] * n,
        max_new=4,
        stop_ids=frozenset({EOS}),
        sampling=Sampling(temperature=temperature),
        generator=torch.Generator().manual_seed(seed),
    )


def p_value(mdp: TokenMDP, samples: Any) -> float:
    """Return the p-value of the chi-square test of samples against the enumerated probabilities."""
    n = len(samples.tokens)
    counts = Counter(tuple(t[:k]) for t, k in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True))
    expected = n * mdp.probabilities(mdp.table(1)).numpy()
    observed = np.array([counts[c] for c in mdp.completions])
    assert observed.sum() == n
    rare = expected < 5  # pooled: the chi-square approximation needs at least 5 expected counts
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    statistic = ((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    return float(chi2.sf(statistic, keep.sum() - 1))


def test_the_sampler_draws_from_the_table(mdp: TokenMDP) -> None:
    policy = policy_of(mdp)
    samples = draw(policy, 20_000, seed=0)
    assert p_value(mdp, samples) > 1e-6
    assert p_value(mdp, draw(policy, 20_000, seed=0, temperature=0.8)) < 1e-6


def test_sampled_logprobs_equal_scored_and_enumerated_logprobs(mdp: TokenMDP) -> None:
    policy = policy_of(mdp)
    samples = draw(policy, 200, seed=1)
    inside = torch.arange(samples.tokens.shape[1]) < samples.lengths[:, None]
    tokens = torch.cat([torch.full((200, 1), START), samples.tokens], 1)
    mask = torch.cat([torch.zeros(200, 1, dtype=torch.bool), inside], 1)
    scored = policy.score(tokens, samples.lengths + 1, mask, Sampling()).logprobs[:, 1:]
    torch.testing.assert_close(scored.float(), samples.logprobs, rtol=0, atol=1e-5)
    index = {c: i for i, c in enumerate(mdp.completions)}
    exact = mdp.logprobs(mdp.table(1)).sum(1)
    for i in range(200):
        completion = tuple(samples.tokens[i, : samples.lengths[i]].tolist())
        assert scored[i].sum().item() == pytest.approx(exact[index[completion]].item(), abs=1e-5)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo", "dr_grpo"])
def test_the_learners_step_is_the_enumerated_gradient(mdp: TokenMDP, name: str) -> None:
    prompts, objective = 700, algorithm(name).objective
    policy = policy_of(mdp)
    env = TokenVectorEnv(
        TextMDP(source=[{"prompt": "go"}] * 10, tokenizer=ThreeTokens(), reward=Lookup(mdp), max_prompt=1, max_new=4),
        2 * prompts,
    )
    rollout = collect(
        env,
        DecodeSampler(policy),
        [env.mdp.source.get("train", 0)] * prompts,
        group_size=2,
        sampling=Sampling(),
        generator=torch.Generator().manual_seed(3),
        seed=0,
    )
    learner = Learner(
        policy,
        objective,
        LearnerConfig(micro_batch=512, max_grad_norm=0),
        sampling=Sampling(),
        total_updates=1,
        generator=torch.Generator(),
        max_length=4,
    )
    learner.state.ema = 0.4
    state = type(learner.state)(objective.kl.coef, ema=0.4)
    # plain gradient descent with learning rate 1: the change of the weights is linear in the gradient
    learner.optimizer = torch.optim.SGD([policy.table], lr=1.0)
    initial = policy.table.detach().clone()
    learner.update(learner.prepare(rollout))
    update = (policy.table.detach() - initial)[policy.index]
    directions = torch.randn(16, *update.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mean, sigma = projected_moments(
        objective, mdp, mdp.table(1), directions, group_size=2, state=state, reference=mdp.table(2)
    )
    z = (directions.flatten(1) @ update.flatten() - mean) / (sigma / prompts**0.5)
    assert z.abs().max() < 5
    wrong = (-directions.flatten(1) @ update.flatten() - mean) / (sigma / prompts**0.5)
    assert wrong.abs().max() > 5  # the test can fail: it detects a sign flip

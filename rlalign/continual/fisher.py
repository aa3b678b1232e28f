"""The diagonal Fisher information of a policy on an environment, from completions that it samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.stream import task_stream
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.policies.base import Policy
from rlalign.policies.device import on_device
from rlalign.policies.factory import make_sampler
from rlalign.rollout.collect import collect
from rlalign.rollout.source import TokenRows
from rlalign.types import Sampling

_ROWS = 64  # completions that are sampled together: bounds the memory use


def squared_scores(policy: Policy, rows: TokenRows, sampling: Sampling) -> dict[str, Tensor]:
    """Return the sum over N completions of the squared score function, name -> tensor of the parameter's shape.

    ::

        Σ_n (∂/∂theta log pi(y_n | x_n))²,    log pi(y | x) = Σ_t log pi(y_t | x, y_<t)

    One backward pass per completion: the square of a sum over completions is not the sum of their squares.

    Args:
        policy: its trained parameters are theta.
        rows: N completions that the policy sampled.
        sampling: the distribution that they were drawn from.
    """
    parameters = policy.trainable()
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for i in range(len(rows.tokens)):
        one = slice(i, i + 1)
        logprob = policy.score(rows.tokens[one], rows.lengths[one], rows.action_mask[one], sampling).logprobs.sum()
        gradients = torch.autograd.grad(logprob, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:  # parameters of the value do not enter the log-prob
                sums[name] += gradient.detach().square()
    return sums


def diagonal_fisher(
    policy: Policy, mdp: TextMDP, *, samples: int, sampling: Sampling, sampler: str, seed: int
) -> dict[str, Tensor]:
    """Estimate the diagonal of the Fisher information of a policy on the training prompts of an environment.

    ::

        F_i = E_(x ~ prompts, y ~ pi(·|x)) [ (∂/∂theta_i log pi(y | x))² ]

    The estimate is the mean over completions, one per prompt, sampled from the policy: the Fisher information itself,
    not the empirical one, which would take answers of the data. It is unbiased. A completion counts as a whole, so that
    F is in 1 / (unit of theta)² per completion.

    Args:
        policy: at the start of a run.
        mdp: the former environment, bound to the policy's tokenizer. Its rewards are not computed.
            A mixture has the prompts of its environments in the shares of its weights at step 0.
        samples: number of completions, at least 1.
        sampling: the distribution to sample from and to score under.
        sampler: decode or generate.
        seed: of the prompts, the tokens and the environment's own randomness.

    Returns:
        Name -> tensor of the shape of each trained parameter.
    """
    mdp = mdp.with_reward(None)
    task_seed, token_seed = (int(word) for word in np.random.SeedSequence([seed, 1612]).generate_state(2))
    tasks = task_stream(mdp, seed=task_seed)
    generator = torch.Generator(policy.device).manual_seed(token_seed)
    draw = make_sampler(sampler, policy)
    policy.begin_rollout()
    sums = {name: torch.zeros_like(parameter) for name, parameter in policy.trainable().items()}
    with on_device(policy.device):
        for start in range(0, samples, _ROWS):
            count = min(_ROWS, samples - start)
            env = TokenVectorEnv(mdp, count)
            with torch.no_grad():
                rollout = collect(
                    env,
                    draw,
                    tasks.next(count),
                    group_size=1,
                    sampling=sampling,
                    generator=generator,
                    seed=token_seed + start,
                )
            rows = TokenRows(rollout.tokens, rollout.lengths, rollout.action_mask)
            for name, value in squared_scores(policy, rows, sampling).items():
                sums[name] += value
    return {name: value / samples for name, value in sums.items()}

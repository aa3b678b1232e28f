"""A token MDP that is small enough to be enumerated: every completion, its probability and its reward."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from rlalign.objective.batch import Batch

EOS = 0


class TokenMDP:
    """All completions of at most `horizon` tokens over `vocabulary` tokens, token 0 being EOS; M of them, T = horizon.

    Args:
        vocabulary, horizon: sizes.
        rewards: graded (uniform in [0, 1]), binary (0 or 1), or float [M] in the order of `tokens`.
        seed: of rewards and tables.

    Attributes:
        tokens: int64 [M, T]; 0 past the end.
        mask: bool [M, T].
        prefix: int64 [M, T], the index of the prefix that the token follows.
        terminated: bool [M], ended by EOS; the others were cut at the horizon.
        rewards: float64 [M].
        prefixes: list of the prefixes, in the order of a table's rows.
    """

    def __init__(
        self,
        vocabulary: int = 3,
        horizon: int = 4,
        rewards: Literal["graded", "binary"] | Tensor = "graded",
        seed: int = 0,
    ) -> None:
        self.vocabulary, self.horizon, self.seed = vocabulary, horizon, seed
        speaking = range(1, vocabulary)
        self.prefixes = [p for n in range(horizon) for p in itertools.product(speaking, repeat=n)]
        index = {p: i for i, p in enumerate(self.prefixes)}
        ended = [(*p, EOS) for p in self.prefixes]
        cut = list(itertools.product(speaking, repeat=horizon))
        self.completions = ended + cut
        m = len(self.completions)
        self.tokens = torch.zeros(m, horizon, dtype=torch.int64)
        self.mask = torch.zeros(m, horizon, dtype=torch.bool)
        self.prefix = torch.zeros(m, horizon, dtype=torch.int64)
        for i, completion in enumerate(self.completions):
            for t, token in enumerate(completion):
                self.tokens[i, t], self.mask[i, t] = token, True
                self.prefix[i, t] = index[completion[:t]]
        self.terminated = torch.arange(m) < len(ended)
        if isinstance(rewards, Tensor):
            self.rewards = rewards.double()
        else:
            drawn = torch.rand(m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
            self.rewards = drawn if rewards == "graded" else (drawn > drawn.median()).double()

    def table(self, seed: int, scale: float = 0.7) -> Tensor:
        """A random logit table, float64 [prefixes, V]."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return scale * torch.randn(len(self.prefixes), self.vocabulary, dtype=torch.float64, generator=generator)

    def logprobs(self, logits: Tensor) -> Tensor:
        """log pi of each token of each completion, [M, T], 0 off the mask; differentiable."""
        return logits.log_softmax(1)[self.prefix, self.tokens].where(self.mask, 0)

    def entropies(self, logits: Tensor) -> Tensor:
        """Entropy of the token distribution at each token, [M, T], 0 off the mask; differentiable."""
        logp = logits.log_softmax(1)
        return -(logp.exp() * logp).sum(1)[self.prefix].where(self.mask, 0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each completion, [M]; sums to 1; differentiable."""
        return self.logprobs(logits).sum(1).exp()

    def value(self, logits: Tensor) -> Tensor:
        """J = E[R], a differentiable scalar."""
        value: Tensor = self.probabilities(logits) @ self.rewards
        return value

    def kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """KL(pi‖ref) of completions, a differentiable scalar."""
        p, q = self.logprobs(logits).sum(1), self.logprobs(reference).sum(1)
        divergence: Tensor = p.exp() @ (p - q)
        return divergence

    def gradient(self, logits: Tensor, reference: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """Exact gradient of E[R] - beta · KL(pi‖ref) with respect to the table, [prefixes, V]."""
        at = logits.detach().requires_grad_()
        goal = self.value(at) - (beta * self.kl(at, reference) if reference is not None else 0.0)
        return torch.autograd.grad(goal, at)[0]

    def state_values(self, logits: Tensor) -> Tensor:
        """Exact V of each prefix, [prefixes]."""
        p = self.probabilities(logits).detach()
        mass, worth = torch.zeros(2, len(self.prefixes), dtype=torch.float64)
        for t in range(self.horizon):
            on = self.mask[:, t]
            mass.index_add_(0, self.prefix[on, t], p[on])
            worth.index_add_(0, self.prefix[on, t], (p * self.rewards)[on])
        result: Tensor = worth / mass
        return result

    @cached_property
    def _lookup(self) -> dict[tuple[int, ...], int]:
        return {c: i for i, c in enumerate(self.completions)}

    def greedy_reward(self, logits: Tensor) -> float:
        """Reward of the completion that takes the most probable token each time."""
        done: tuple[int, ...] = ()
        while len(done) < self.horizon and EOS not in done:
            done = (*done, int(logits[self.prefixes.index(done)].argmax()))
        return float(self.rewards[self._lookup[done]])

    def batch(
        self,
        logits: Tensor,
        *,
        reference: Tensor | None = None,
        values: Tensor | None = None,
        final_values: Tensor | None = None,
        sampler: Tensor | None = None,
        old: Tensor | None = None,
    ) -> Batch:
        """All M completions as a batch with gradient to `logits`.

        Tables: logits (pi), reference, sampler (what draws; pi if None) and old (the ratio's denominator; sampler if
        None). values: [prefixes]; final_values: [M], the value after the last token.
        """
        m = len(self.completions)
        logprobs = self.logprobs(logits)
        drawn = logprobs.detach() if sampler is None else self.logprobs(sampler)
        return Batch(
            action_mask=self.mask,
            rewards=self.rewards,
            group_ids=torch.zeros(m, dtype=torch.int64),
            terminated=self.terminated,
            truncated=~self.terminated,
            logprobs=logprobs,
            old_logprobs=drawn if old is None else self.logprobs(old),
            sampler_logprobs=drawn,
            ref_logprobs=None if reference is None else self.logprobs(reference),
            old_values=None if values is None else values[self.prefix].where(self.mask, 0),
            final_values=torch.zeros(m, dtype=torch.float64) if final_values is None else final_values,
            entropies=self.entropies(logits),
            greedy_rewards=torch.full((m,), self.greedy_reward(logits.detach()), dtype=torch.float64),
            max_length=self.horizon,
        )

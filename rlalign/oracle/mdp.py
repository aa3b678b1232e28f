"""A token MDP small enough to be enumerated: every completion, its probability and its reward."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from rlalign.objective.batch import Batch

EOS = 0


class TokenMDP:
    """The M completions of at most `horizon` tokens over `vocabulary` tokens; token 0 is EOS, T = horizon.

    The policy is a softmax table, float64 [prefixes, V]: one row of logits per prefix without EOS. With v = V - 1
    tokens other than EOS there are 1 + v + ... + v^(T-1) prefixes and M = 1 + v + ... + v^T completions, 15 and 31 by
    default.

    Args:
        vocabulary: number of tokens, V, EOS included.
        horizon: largest number of tokens in a completion.
        rewards: graded (uniform in [0, 1]), binary (0 or 1), or float [M] in the order of `tokens`.
        seed: of rewards and tables.

    Attributes:
        tokens: int64 [M, T]; 0 past the end.
        mask: bool [M, T].
        prefix: int64 [M, T], the index of the prefix before the token.
        terminated: bool [M], ended by EOS; the others are truncated at the horizon.
        rewards: float64 [M].
        prefixes: list of the prefixes, in the order of a table's rows.
        completions: list of the completions as tuples, in the order of `tokens`.

    Example:
        >>> mdp = TokenMDP(horizon=2)
        >>> mdp.completions
        [(0,), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
        >>> logits = mdp.table(seed=1)  # a random policy
        >>> round(float(mdp.probabilities(logits).sum()), 12)
        1.0
        >>> mdp.gradient(logits).shape  # of E[R], exact
        torch.Size([3, 3])
    """

    def __init__(
        self,
        vocabulary: int = 3,
        horizon: int = 4,
        rewards: Literal["graded", "binary"] | Tensor = "graded",
        seed: int = 0,
    ) -> None:
        self.vocabulary = vocabulary
        self.horizon = horizon
        self.seed = seed
        not_eos = range(1, vocabulary)
        self.prefixes: list[tuple[int, ...]] = []
        for length in range(horizon):
            self.prefixes += itertools.product(not_eos, repeat=length)
        index = {p: i for i, p in enumerate(self.prefixes)}
        ended = [(*p, EOS) for p in self.prefixes]
        truncated = list(itertools.product(not_eos, repeat=horizon))
        self.completions = ended + truncated
        m = len(self.completions)
        self.tokens = torch.zeros(m, horizon, dtype=torch.int64)
        self.mask = torch.zeros(m, horizon, dtype=torch.bool)
        self.prefix = torch.zeros(m, horizon, dtype=torch.int64)
        for i, completion in enumerate(self.completions):
            for t, token in enumerate(completion):
                self.tokens[i, t] = token
                self.mask[i, t] = True
                self.prefix[i, t] = index[completion[:t]]
        self.terminated = torch.arange(m) < len(ended)
        if isinstance(rewards, Tensor):
            self.rewards = rewards.double()
        else:
            uniform = torch.rand(m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
            self.rewards = uniform if rewards == "graded" else (uniform > uniform.median()).double()

    def table(self, seed: int, scale: float = 0.7) -> Tensor:
        """Return a random logit table, float64 [prefixes, V].

        Args:
            seed: of the table, together with the seed of the MDP.
            scale: standard deviation of the logits.
        """
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return scale * torch.randn(len(self.prefixes), self.vocabulary, dtype=torch.float64, generator=generator)

    def logprobs(self, logits: Tensor) -> Tensor:
        """Return log pi of each token of each completion, float64 [M, T], 0 off the mask; differentiable.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        return logits.log_softmax(1)[self.prefix, self.tokens].where(self.mask, 0)

    def entropies(self, logits: Tensor) -> Tensor:
        """Return the entropy in nats of the token distribution at each token, [M, T], 0 off the mask; differentiable.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        logp = logits.log_softmax(1)
        return -(logp.exp() * logp).sum(1)[self.prefix].where(self.mask, 0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each completion, [M]; they sum to 1; differentiable.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        return self.logprobs(logits).sum(1).exp()

    def value(self, logits: Tensor) -> Tensor:
        """Return the expected reward J = E[R] = Σ_y pi(y) R(y), a differentiable scalar.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        value: Tensor = self.probabilities(logits) @ self.rewards
        return value

    def kl(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Return KL(pi‖ref) = Σ_y pi(y) (log pi(y) - log ref(y)) over completions, in nats, a differentiable scalar.

        Args:
            logits: table of the policy, [prefixes, V].
            reference: table of the reference, [prefixes, V].
        """
        p = self.logprobs(logits).sum(1)
        q = self.logprobs(reference).sum(1)
        divergence: Tensor = p.exp() @ (p - q)
        return divergence

    def gradient(self, logits: Tensor, reference: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """Return the exact gradient of E[R] - beta · KL(pi‖ref) with respect to the logits, [prefixes, V].

        Args:
            logits: table of the policy, [prefixes, V].
            reference: table of the reference, [prefixes, V]; None leaves out the KL.
            beta: coefficient of the KL.
        """
        table = logits.detach().requires_grad_()
        maximand = self.value(table) - (beta * self.kl(table, reference) if reference is not None else 0.0)
        return torch.autograd.grad(maximand, table)[0]

    def state_values(self, logits: Tensor) -> Tensor:
        """Return the exact V of each prefix, [prefixes]: the mean reward of the completions that begin with it.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        p = self.probabilities(logits).detach()
        mass = torch.zeros(len(self.prefixes), dtype=torch.float64)
        reward = torch.zeros(len(self.prefixes), dtype=torch.float64)
        for t in range(self.horizon):
            on = self.mask[:, t]
            mass.index_add_(0, self.prefix[on, t], p[on])
            reward.index_add_(0, self.prefix[on, t], (p * self.rewards)[on])
        values: Tensor = reward / mass
        return values

    @cached_property
    def _index(self) -> dict[tuple[int, ...], int]:
        return {c: i for i, c in enumerate(self.completions)}

    def greedy_reward(self, logits: Tensor) -> float:
        """Return the reward of the completion of the most probable tokens.

        Args:
            logits: table of the policy, [prefixes, V].
        """
        completion: tuple[int, ...] = ()
        while len(completion) < self.horizon and EOS not in completion:
            completion = (*completion, int(logits[self.prefixes.index(completion)].argmax()))
        return float(self.rewards[self._index[completion]])

    def batch(
        self,
        logits: Tensor,
        *,
        reference: Tensor | None = None,
        second_reference: Tensor | None = None,
        values: Tensor | None = None,
        final_values: Tensor | None = None,
        sampler: Tensor | None = None,
        old: Tensor | None = None,
    ) -> Batch:
        """Return all M completions as a batch with gradient to `logits`.

        Args:
            logits: table of the policy pi, [prefixes, V].
            reference: table of the reference.
            second_reference: table of a second reference; the KL is then the mean of both.
            values: V of each prefix, [prefixes].
            final_values: V after the last token, [M]; 0 if None.
            sampler: table of the sampler; pi if None.
            old: table of the ratio's denominator; the sampler if None.
        """
        m = len(self.completions)
        logprobs = self.logprobs(logits)
        sampled = logprobs.detach() if sampler is None else self.logprobs(sampler)
        return Batch(
            action_mask=self.mask,
            rewards=self.rewards,
            group_ids=torch.zeros(m, dtype=torch.int64),
            terminated=self.terminated,
            truncated=~self.terminated,
            logprobs=logprobs,
            old_logprobs=sampled if old is None else self.logprobs(old),
            sampler_logprobs=sampled,
            ref_logprobs=None if reference is None else self.logprobs(reference),
            second_ref_logprobs=None if second_reference is None else self.logprobs(second_reference),
            old_values=None if values is None else values[self.prefix].where(self.mask, 0),
            final_values=torch.zeros(m, dtype=torch.float64) if final_values is None else final_values,
            entropies=self.entropies(logits),
            greedy_rewards=torch.full((m,), self.greedy_reward(logits.detach()), dtype=torch.float64),
            max_length=self.horizon,
        )

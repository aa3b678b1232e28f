"""All completions of a prompt with their probabilities, where there are few enough: exact values beside estimates."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
import torch

from rlalign.envs.mdp import TextMDP
from rlalign.evaluation.best_of_n import exact_kl
from rlalign.policies.base import Policy
from rlalign.policies.device import on_device
from rlalign.policies.memory import in_parts
from rlalign.types import FloatArray, Sampling, Task

MOST_COMPLETIONS = 1024
_MOST_SCORED = 32_768  # completions of all prompts together
_TOLERANCE = 1e-3  # of the sum of all probabilities, which are float32


def num_completions(vocabulary: int, num_stops: int, max_new: int) -> int:
    """Return the number of completions of at most `max_new` tokens that end with a stop id or at the limit.

    With v ids other than the s stop ids: s (1 + v + ... + v^(T-1)) + v^T.

    Args:
        vocabulary: number of ids.
        num_stops: number of stop ids among them.
        max_new: largest number of tokens, T.

    Example:
        >>> num_completions(3, 1, 4)
        31
    """
    others = vocabulary - num_stops
    count: int = num_stops * sum(others**t for t in range(max_new)) + others**max_new
    return count


def all_completions(vocabulary: int, stop_ids: Collection[int], max_new: int) -> list[tuple[int, ...]]:
    """Return all completions as ids, stop id included (see `num_completions`).

    Args:
        vocabulary: number of ids.
        stop_ids: ids that end a completion.
        max_new: largest number of tokens.
    """
    others = [i for i in range(vocabulary) if i not in stop_ids]
    ended = [
        (*prefix, stop)
        for length in range(max_new)
        for prefix in itertools.product(others, repeat=length)
        for stop in sorted(stop_ids)
    ]
    return ended + list(itertools.product(others, repeat=max_new))


def exact_kl_of(
    policy: Policy, mdp: TextMDP, tasks: Sequence[Task], numbers: Sequence[int], sampling: Sampling
) -> list[float] | None:
    """Return the exact KL of best-of-n to the policy for each n, mean over prompts, in nats; None if it is not known.

    It is known for a single turn with at most 1,024 completions per prompt, if every completion can be scored and the
    probabilities sum to 1.

    Args:
        policy: the policy that is sampled.
        mdp: the environment with the reward that selects, bound to the policy's tokenizer.
        tasks: the prompts.
        numbers: values of n.
        sampling: the distribution that is sampled from.
    """
    vocabulary = mdp.tokenizer.vocab_size
    stops = {i for i in mdp.stop_ids if i < vocabulary}
    # the exponent is checked first: v^T of a real model is a number of thousands of digits
    if mdp.max_turns > 1 or mdp.max_new > MOST_COMPLETIONS.bit_length() or not mdp.has_reward:
        return None
    count = num_completions(vocabulary, len(stops), mdp.max_new)
    if count > MOST_COMPLETIONS or count * len(tasks) > _MOST_SCORED:
        return None
    completions = all_completions(vocabulary, stops, mdp.max_new)
    values = []
    for task in tasks:
        probabilities = completion_probabilities(policy, mdp.prompt_ids(task), completions, sampling)
        rewards = _rewards(mdp, task, completions, stops)
        if rewards is None or abs(probabilities.sum() - 1.0) > _TOLERANCE:
            return None
        values.append([exact_kl(probabilities / probabilities.sum(), rewards, n) for n in numbers])
    means: list[float] = np.mean(values, axis=0).tolist()
    return means


def completion_probabilities(
    policy: Policy, prompt: Sequence[int], completions: Sequence[Sequence[int]], sampling: Sampling
) -> FloatArray:
    """Return the probability of each completion after a prompt, float64 [M].

    Args:
        policy: scores the tokens.
        prompt: ids of the context.
        completions: M completions as ids.
        sampling: the distribution that is sampled from.
    """
    start = len(prompt)
    lengths = torch.tensor([start + len(ids) for ids in completions])
    tokens = torch.zeros(len(completions), int(lengths.max()), dtype=torch.int64)
    for row, ids in enumerate(completions):
        tokens[row, : lengths[row]] = torch.tensor([*prompt, *ids])
    columns = torch.arange(tokens.shape[1])
    mask = (columns >= start) & (columns < lengths[:, None])

    def score(rows: torch.Tensor) -> torch.Tensor:
        return policy.score(tokens[rows], lengths[rows], mask[rows], sampling).logprobs.double().cpu()

    with torch.no_grad(), on_device(policy.device):
        logprobs = torch.cat(in_parts(score, torch.arange(len(completions))))
    probabilities: FloatArray = logprobs.sum(1).exp().numpy()
    return probabilities


def _rewards(mdp: TextMDP, task: Task, completions: Sequence[Sequence[int]], stops: set[int]) -> FloatArray | None:
    """Return the reward of each completion; None if one could not be scored."""
    episodes = [mdp.begin(task, 0, 0) for _ in completions]
    for episode, ids in zip(episodes, completions, strict=True):
        mdp.end_turn(episode, list(ids), ids[-1] in stops)
    scores = mdp.score(episodes, [True] * len(episodes))
    return scores.total if bool(scores.valid.all()) and bool(np.isfinite(scores.total).all()) else None
